"""Answers of a sidecar that there is not, for what a real one is slow to be brought to."""

import json
import math
import time

from wafermon.net import AdminServer, Response
from wafermon.sidecar.pages.dashboard import dashboard

HOSTILE = "<img src=x onerror=alert(1)>\u202e'\"&amp;</script>"


def now_ms():
    return int(time.time() * 1000)


class Events:
    """One server-sent event, and the promise of more."""

    def __init__(self, value):
        self._value = value

    def __iter__(self):
        yield f"event: summary\ndata: {json.dumps(self._value())}\n\n".encode()
        while True:
            time.sleep(1)
            yield f"event: summary\ndata: {json.dumps(self._value())}\n\n".encode()

    def close(self):
        pass


class Lines:
    def __init__(self, lines):
        self._lines = lines

    def __iter__(self):
        yield b"".join(self._lines)
        while True:
            time.sleep(1)
            yield b"\n"

    def close(self):
        pass


STATES = ["missing", "late", "live", "live", "live", "live", "finished"]


def source(i, name=None):
    return {
        "src": name or f"equipment-{i:05d}.loader", "state": STATES[i % 7], "since_ms": now_ms() - 5000 * i,
        "first_seen_ms": now_ms() - 10**7, "last_seen_ms": now_ms() - 1000 * (i % 90), "connections": i % 3,
        "interval_s": [10, None, 30.5][i % 3], "interval_from": ["told", None, "learned"][i % 3],
        "messages": i * 1237 % 99_991, "by_type": {"event": i * 7 % 1000, "span": i % 90, "metric": i % 11},
        "per_s": (i * 37 % 1000) / 7, "rates": [(1 + math.sin((i + k) / 5)) * (i % 9) for k in range(60)],
        "dropped": (i % 5 == 0 and i) or 0,
    }


def job(i, name=None):
    state = ["died", "failed", "stalled", "running", "running", "done"][i % 6]
    return {
        "job_id": name or f"load-lot-{i}", "src": name or "db-loader", "state": state, "percent": (i * 17) % 100,
        "msg": name or f"{i * 100} of {i * 300} rows", "started_ms": now_ms() - 600_000, "updated_ms": now_ms() - 3000 * i,
        "ended_ms": now_ms() if state == "done" else None, "percent_per_s": 0.21, "eta_s": 83.0 * (i + 1),
        "eta_ms": now_ms() + 83_000, "eta_method": "mean rate of the last 2 minutes", "stalled_for_s": 412.0,
        "reason": {"died": "its connection ended without a goodbye", "failed": name or "it said so",
                   "stalled": "no change for 6 min, usually every 20 s"}.get(state),
        "tid": "4bf92f3577b34da6a3ce929d0e0e4736", "runs": 5, "usual_s": 720.0,
        "history": [{"started_ms": now_ms() - 86_400_000 * k, "duration_s": 700.0 + 31 * k,
                     "state": ["done", "failed"][k == 2]} for k in range(1, 5)],
    }


def backend(i, name=None):
    state = ["up", "degraded", "down"][i % 3]
    return {
        "name": name or ["store", "nas", "central"][i % 3], "type": ["store", "file", "forward"][i % 3], "state": state,
        "reason": {"degraded": "its queue is 81 % full", "down": "connect: connection refused (10.1.2.3:17000)"}.get(state),
        "since_ms": now_ms() - 125_000, "circuit": ["closed", "half_open", "open"][i % 3],
        "queued_messages": [12, 810, 990][i % 3], "queued_bytes": 264 * [12, 810, 990][i % 3],
        "capacity_messages": 1000, "capacity_bytes": 10**7, "oldest_s": [0.2, 31.0, 125.4][i % 3], "offered": 1_204_511,
        "delivered": 1_203_000, "failed": 12 * i, "retries": 9 * i, "dead_lettered": i,
        "dropped": {"queue_full": 500 * i, "gave_up": i}, "per_s": 1234.5 / (i + 1),
    }


def trace_row(i, name=None):
    return {
        "tid": name or f"{i:032x}", "name": name or ["load lot", "sync recipes", "report"][i % 3],
        "src": name or "queue-service", "start_ms": now_ms() - i * 4321, "duration_ms": 3.0 * (1 + i * 7919 % 500) ** 1.4,
        "spans": 3 + i % 40, "errors": int(i % 9 == 0), "orphans": int(i % 13 == 0), "open": int(i % 11 == 0),
        "services": ["queue-service", "db-loader", "file-receiver"][: 1 + i % 3], "complete": i % 11 != 0,
    }


def spans(count, name=None):
    """A tree in pre-order, some of it odd."""
    start = now_ms() - 60_000
    made = []
    for i in range(count):
        depth = 0 if i == 0 else 1 + (i % 7 if i % 50 else 0)
        length = 12_000.0 if i == 0 else 40.0 + (i * 7919 % 900)
        made.append({
            "sid": (name and f"{name}{i}") or f"{i:016x}", "parent": f"{0:016x}" if i else None, "depth": depth,
            "src": name or ["queue-service", "db-loader", "file-receiver"][i % 3],
            "name": name or ["load lot", "SELECT wafers", "read datalog", "parse", "INSERT results"][i % 5],
            "kind": [None, "client", "server"][i % 3], "start_ms": start + (i * 11_000 / count),
            "duration_ms": None if i % 97 == 5 else length, "self_ms": length / 3,
            "status": "open" if i % 97 == 5 else "error" if i % 23 == 7 else "ok", "orphan": i % 50 == 49, "cycle": i == 33,
            "critical": i % 6 == 0, "skew_ms": -3.5 if i % 41 == 4 else None, "children": 2 if i % 7 == 0 or i == 0 else 0,
            "messages": 2 if i % 5 == 0 else 0, "ctx": {"lot": "A1234", name or "rows": name or 1200},
            "events": [{"ts": int(start + i), "src": "db-loader", "type": "event", "level": level, "msg": name or "read 1,200 rows"}
                       for level in ("info", "error")] if i % 5 == 0 else [],
        })
    return made


def trace(tid, count, name=None):
    made = spans(count, name)
    return {
        "tid": tid, "start_ms": made[0]["start_ms"], "duration_ms": 12_000.0, "complete": True, "roots": 1,
        "loose_messages": 2, "left_out": 0, "critical_path": [s["sid"] for s in made if s["critical"]], "error_path": [],
        "services": [{"src": name or f"service-{i}", "spans": 10 + i, "errors": i % 2, "self_ms": 900.0 * (i + 1)} for i in range(3)],
        "spans": made,
    }


def points(k, count=120):
    return [[now_ms() - 5000 * (count - i), 50 + 30 * math.sin((i + k) / 9) + k] for i in range(count)]


class Canned:
    """What the pages say; change its numbers to fill or empty it."""

    def __init__(self, sources=40, jobs=14, traces=120, spans=60, name=None):
        self.sources, self.jobs, self.traces, self.spans, self.name = sources, jobs, traces, spans, name

    def summary(self):
        busy = self.sources > 0
        states = [STATES[i % 7] for i in range(self.sources)]
        return {
            "now_ms": now_ms(), "version": "1.0", "status": "degraded" if busy else "ok",
            "reasons": ["backend central: connect: connection refused"] if busy else [], "uptime_s": 93_784.2,
            "config": {"config": "ok", "config_sha256": "9f0c", "config_loaded_ms": now_ms() - 10**6},
            "messages": {"received_total": 1_204_511 if busy else 0, "per_s": 1234.5 + now_ms() // 1000 % 60 * 7 if busy else 0.0,
                         "rejected_total": 17 if busy else 0, "dropped_total": 1503 if busy else 0},
            "sources": {state: states.count(state) for state in ("live", "late", "missing", "finished")},
            "jobs": {"running": 4, "stalled": 2, "died": 1, "done": 3, "failed": 1} if busy else dict.fromkeys(
                ("running", "stalled", "died", "done", "failed"), 0),
            "alerts": {"firing": 2, "names": [self.name or "config-service is silent", "nightly-load is late"]} if busy else {"firing": 0, "names": []},
            "backends": [backend(i, self.name) for i in range(3)] if busy else [backend(0)],
            "drops": [{"where": self.name or "nas", "reason": "queue_full", "count": 1480},
                      {"where": "nas", "reason": "gave_up", "count": 23}, {"where": "input", "reason": "invalid_json", "count": 17}] if busy else [],
            "journal": {"status": "ok", "receipts": "disk", "bytes": 12_400_000}, "memory_bytes": 61_200_000, "cpu_percent": 7.3,
            "listen": {"tcp": "127.0.0.1:17000", "unix": "/run/wafermon/sidecar.sock"},
        }

    def source(self, request):
        if request.rest == "unknown":
            return Response.json({"error": "no source unknown is known"}, 404)
        name = self.name and f"{self.name} 0"
        errors = [{"ts": now_ms() - 9000 * i, "level": ["error", "fatal"][i % 2], "msg": name or f"no such file: lot{i}.dat", "tid": [None, "abc"][i % 2]}
                  for i in range(3)]
        return Response.json({
            "now_ms": now_ms(), "source": source(8, request.rest), "errors": errors, "errors_sampled": True,
            "drops": [{"where": "backend nas", "reason": "queue_full", "about": "the queue was full", "count": 12}],
            "jobs_total": 3, "jobs": [job(i, name) for i in range(3)], "traces": [trace_row(i, name) for i in range(4)],
            "resources": {"src": request.rest, "cpu": points(0), "mem": points(1), "disk": {name or "/data": points(2)}, "net": {}},
        })

    def metrics(self, request):
        names = [self.name or name for name in ("chamber_pressure", "queue_length", "wafers_total")]
        made = [{"name": name, "kind": ["gauge", "counter"][k == 2], "unit": ["mbar", None, None][k], "series_total": [200, 1, 4][k],
                 "lowest": 3.5, "highest": 99.25, "series": self.of_metric(name)[:[5, 1, 4][k]]} for k, name in enumerate(names if self.sources else [])]
        return Response.json({"now_ms": now_ms(), "metrics": made, "total": len(made), "evicted": 0})

    def of_metric(self, name):
        return [{"name": name, "src": self.name or f"equipment-{i}", "kind": "gauge", "unit": "mbar", "value": 50.25 + i, "points": points(i * 7),
                 "tags": {"line": "3", "tool": self.name or f"etch-{i}"}} for i in range(9)]

    def rows(self, key, make, total):
        def page(request):
            sort, _, order = (request.last("sort") or "").partition(":")
            wanted = (request.last("q") or request.last("src") or "").lower()
            state = request.last("state")
            names = [f"{self.name} {i}" if self.name else None for i in range(total)]
            rows = [make(i, name) for i, name in enumerate(names)]
            rows = [row for row in rows if wanted in json.dumps(row).lower() and state in (None, row.get("state"))]
            if sort:
                rows.sort(key=lambda row: row[sort], reverse=order == "down")
            limit = int(request.last("limit") or 1000)
            return Response.json({"now_ms": now_ms(), "total": len(rows), "evicted": 0, key: rows[:limit]})
        return page

    def trace(self, request):
        if request.rest == "unknown":
            return Response.json({"error": "no such trace is remembered"}, 404)
        return Response.json(trace(request.rest, self.spans, self.name))

    def alerts(self, request):
        name = self.name or "config-service is silent"
        made = [{"name": name, "kind": "dead_man", "state": state, "since_ms": now_ms() - 90_000 * (i + 1),
                 "message": self.name or "nothing from config-service for 1 min 30 s", "value": 90.0 * i, "fired": 3 - i,
                 "last_fired_ms": now_ms() - 90_000} for i, state in enumerate(("ok", "firing", "pending"))]
        recent = [{"name": name, "state": ["firing", "resolved"][i % 2], "at_ms": now_ms() - i * 10**6,
                   "message": self.name or "nothing for 90 s"} for i in range(5)]
        return Response.json({"now_ms": now_ms(), "alerts": made if self.sources else [], "recent": recent if self.sources else []})

    def series(self, request):
        made = self.of_metric(request.last("name"))
        return Response.json({"now_ms": now_ms(), "series": made, "total": len(made), "evicted": 0})

    def resources(self, request):
        made = [{"src": self.name or f"equipment-{i}", "cpu": points(i), "mem": [[t, v * 1e7] for t, v in points(i)],
                 "disk": {self.name or f"/data{k}": points(k * 20) for k in range(3)}, "net": {"rx": points(1), "tx": points(40)}}
                for i in range(2 if self.sources else 0)]
        return Response.json({"now_ms": now_ms(), "sources": made})

    def services(self, request):
        made = [{"src": self.name or f"service-{i}", "name": self.name or f"load {i}", "calls": 1000 * i + 3, "errors": i % 3 * 4, "rate_per_s": 1.5 * i,
                 "duration_ms": {"p50": 3.0 * i + 1, "p95": 12.0 * i + 2, "p99": 40.5 * i + 3}} for i in range(6 if self.sources else 0)]
        edges = [{"from": f"service-{i}", "to": self.name or f"service-{i + 1}", "calls": 500 - 60 * i, "errors": i} for i in range(4)]
        return Response.json({"now_ms": now_ms(), "services": made, "edges": edges if made else [], "evicted": 0})

    def tail(self, request):
        made = []
        for i in range(60 if self.sources else 0):
            data = [{"level": ["info", "warn", "error", "debug"][i // 4 % 4], "msg": self.name or f"read {i} of 60 files", "ctx": {"lot": "A12"}},
                    {"name": self.name or "wafers", "value": i}, {"job_id": "nightly", "percent": i}, {"interval_s": 10}][i % 4]
            made.append(json.dumps({"v": 1, "src": self.name or "file-receiver", "ts": now_ms() - i * 20, "data": data, "tid": "abc",
                                    "type": ["event", "metric", "progress", "heartbeat"][i % 4]}).encode() + b"\n")
        return Response(Lines([*made, b'{"missed": 12}\n'] if made else []), "application/x-ndjson")

    def pages(self):
        index, files = dashboard()
        return {
            "/": index, "/web/": files, "/tail": self.tail, "/api/alerts": self.alerts, "/api/series": self.series, "/api/metrics": self.metrics, "/api/sources/": self.source,
            "/api/resources": self.resources, "/api/services": self.services, "/api/traces/": self.trace,
            "/api/summary": lambda request: Response.json(self.summary()),
            "/api/live": lambda request: Response(Events(self.summary), "text/event-stream"),
            "/api/sources": self.rows("sources", source, self.sources), "/api/jobs": self.rows("jobs", job, self.jobs),
            "/api/traces": self.rows("traces", trace_row, self.traces),
            "/api/backends": lambda request: Response.json({"now_ms": now_ms(), "backends": self.summary()["backends"]}),
        }

    def server(self, port=0):
        return AdminServer("127.0.0.1", port, self.pages())


class Odd(Canned):
    """What senders may well say, though few do."""

    def tail(self, request):
        words = ["span", "resource panel", "error", "", None]
        lines = [{"v": 1, "src": "a", "ts": now_ms(), "type": "event", "data": {"level": word, "msg": "m"}} for word in words]
        lines += [{"v": 1, "src": "a", "ts": now_ms(), "type": word, "data": {}} for word in ("panel", "constructor")]
        return Response(Lines([json.dumps(line).encode() + b"\n" for line in lines]), "application/x-ndjson")

    def metrics(self, request):
        made = [{"name": f"m{k}", "kind": "gauge", "unit": unit, "series_total": 1, "lowest": value, "highest": value,
                 "series": [{"src": "a", "tags": {}, "value": value, "points": [[now_ms() - 60_000, value]]}]}
                for k, (unit, value) in enumerate([(None, 0), ("furlongs_per_fortnight" * 5, 3)])]
        return Response.json({"now_ms": now_ms(), "metrics": made, "total": 2, "evicted": 0})

    def trace(self, request):
        found = trace(request.rest, self.spans)
        start = found["start_ms"]
        found["loose"] = [{"ts": start + 5, "src": "a", "type": "event", "level": "panel", "msg": HOSTILE}]
        found["spans"][0]["events"] = [{"ts": int(start + k), "src": "b", "type": "event", "level": "info", "msg": "m"} for k in (-30, 30)]
        return Response.json(found)
