"""The sidecar in the configurations that are compared, and the least that Python can do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from bench.addresses import free_port
from bench.peers.contender import ALL, FLAT, LOSS, PACED, Contender
from bench.receiver import Program, reference, sidecar
from bench.reference import BLOCKS, LOADS, SIEVE
from bench.tls import certificate
from wafermon import __version__

#: A row of the tables -> sections of the configuration that differ from the defaults.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "journal off": {"journal": {"enabled": False}},
    "journal on": {},
    "journal off, 2 processes": {
        "journal": {"enabled": False},
        "performance": {"processes": 2},
    },
}


class Sidecar(Contender):
    """Ours.

    Args:
        how: the name of the row.
        changes: sections of the configuration.
        receipts: whether it is sent to by sessions.
        cases: what it is measured in.
    """

    ours = True

    def __init__(
        self,
        how: str,
        changes: Mapping[str, Any],
        *,
        receipts: bool = False,
        cases: Collection[str] = ALL,
    ) -> None:
        self.name = f"sidecar, {how}"
        self.receipts = receipts
        self.cases = cases
        self._changes = changes

    def version(self) -> str:
        return f"wafermon {__version__}"

    def program(self, folder: str, transport: str) -> Program:
        tcp: dict[str, Any] = {"port": free_port()}  # one that stays when it is started again
        if transport == "tls":
            cert, key = certificate(folder)
            tcp["tls"] = {"cert": cert, "key": key}
        started = sidecar(folder, **{**self._changes, "tcp": tcp})

        def ready() -> Any:
            addresses = started.ready()
            return addresses and {**addresses, "tls": addresses["tcp"]}

        return started._replace(ready=ready)


class Reference(Contender):
    """The bare loop: see `bench.reference`."""

    cases = (FLAT, PACED)

    def __init__(self, kind: str, name: str) -> None:
        self.name = f"bare Python, {name}"
        self._kind = kind

    def version(self) -> str:
        return "bare Python"

    def program(self, folder: str, transport: str) -> Program:
        return reference(self._kind, folder)


def ours() -> list[Contender]:
    """All rows of this file."""
    rows: list[Contender] = [Sidecar(how, changes) for how, changes in CONFIGURATIONS.items()]
    rows.append(Sidecar("journal on, receipts", {}, receipts=True, cases=(LOSS,)))
    rows.append(Reference(LOADS, "json.loads a line"))
    rows.append(Reference(BLOCKS, "decode in blocks"))
    rows.append(Reference(SIEVE, "recognise blocks"))
    return rows
