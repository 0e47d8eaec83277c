"""`/api/summary`: everything at a glance; what the dashboard begins with, and `wafermon top`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from wafermon import __version__
from wafermon.delivery.account import REROUTED
from wafermon.flow.alerts import FIRING
from wafermon.net import Page, Request, Response
from wafermon.observe import process
from wafermon.observe.condition import Rate
from wafermon.sidecar.pages.backends import backends
from wafermon.sidecar.pages.health import journal_state
from wafermon.sidecar.pages.reasons import MEANINGS

if TYPE_CHECKING:
    from wafermon.sidecar.sidecar import Sidecar

#: Alerts that are named; the rest are counted.
_NAMED = 10
#: Where messages are dropped because the configuration says so.
_ROUTING = "routing"


class Summary:
    """The sidecar at a glance.

    Thread: `look` loop, every second or so; `value` any. It waits for nobody; with 10,000 sources
    and as many jobs it takes some 40 ms, so ask for it once a second at most.
    """

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar
        self._rate = Rate(5.0)
        self._cpu = Rate(5.0)

    def look(self) -> None:
        """See how far the counts are, so that their rates are known, whoever asks."""
        now = self._sidecar.loop.clock()
        self._rate.note(self._received(), now)
        self._cpu.note(round(process.cpu_seconds() * 1e6), now)

    def _received(self) -> int:
        return sum(dict(self._sidecar.pipeline.received).values())

    def value(self) -> dict[str, Any]:
        """All of it, for JSON."""
        sidecar = self._sidecar
        now, verdict, journal = sidecar.loop.clock(), sidecar.health.verdict(), sidecar.journal
        firing = [row for row in sidecar.alerting.alerts.rows() if row.state == FIRING]
        cpu = self._cpu.per_second
        return {
            "now_ms": int(time.time() * 1000),
            "version": __version__,
            "status": verdict.status,
            "reasons": list(verdict.reasons),
            "uptime_s": round(sidecar.health.uptime_seconds, 1),
            "listen": sidecar.addresses(),
            "config": dict(sidecar.loaded.shown()),
            **self._losses(),
            "sources": sidecar.presence.counts(now),
            "jobs": sidecar.jobs.counts(now),
            "alerts": {
                "firing": len(firing),
                "names": [f"{row.name}: {row.message}"[:300] for row in firing[:_NAMED]],
            },
            "backends": backends(sidecar),
            "journal": {
                "status": getattr(verdict.parts.get("journal"), "state", "off"),
                **journal_state(journal, sidecar.pipeline.receipts, now),
            },
            "memory_bytes": process.memory_bytes(),
            "cpu_percent": None if cpu is None else round(cpu / 1e4, 1),
        }

    def _losses(self) -> dict[str, Any]:
        """What came, and what was lost of it; what the rules drop is no loss."""
        pipeline = self._sidecar.pipeline
        drops, per_second = pipeline.drops(), self._rate.per_second
        rejected = sum(dict(pipeline.rejected).values())
        lost = [
            count for where, reason, count in drops if where != _ROUTING and reason != REROUTED
        ]
        return {
            "messages": {
                "received_total": self._received(),
                "per_s": 0.0 if per_second is None else round(per_second, 1),
                "rejected_total": rejected,
                "dropped_total": max(0, sum(lost) - rejected),
            },
            "drops": [
                {"where": where, "reason": why, "about": MEANINGS.get(why), "count": count}
                for where, why, count in drops
            ],
        }


def summary(whole: Summary) -> Page:
    """`/api/summary`."""

    def page(request: Request) -> Response:
        return Response.json(whole.value())

    return page
