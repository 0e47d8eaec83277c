"""queue-service: lets lots wait in a folder, and runs a command for each, the oldest first.

usage: queue_service.py QUEUE [COMMAND ...]

It runs `COMMAND ... FOLDER`; without one it says so for each lot and lets it go. A lot whose
command fails is kept as `.NAME.failed`. It ends when its standard input does, with what waits then.

To see here: a trace that came beside the data goes on, and into a child process by TRACEPARENT.
"""

import os
import select
import shutil
import subprocess
import sys
import time

from wafermon.client import Client

BEAT_S = 5.0
POLL_S = 0.05

client = Client("queue-service")


def waiting(queue: str) -> list[tuple[int, str, str]]:
    """The lots that wait: since when, name, trace; the oldest first."""
    found = []
    for lot in os.listdir(queue):
        if not lot.startswith("."):  # hidden while it is handed over, and when it has failed
            with open(os.path.join(queue, lot, "trace"), encoding="ascii") as file:
                trace, since = file.read().split()
            found.append((int(since), lot, trace))
    return sorted(found)


def handle(queue: str, lot: str, trace: str, since: int, command: list[str]) -> None:
    """Run the command for a lot."""
    folder = os.path.join(queue, lot)
    _, tid, parent, flags = trace.split("-")
    began, clock = int(time.time() * 1000), time.monotonic()
    # These two spans hang on one that came with the file and not by the environment, and the
    # first began before we knew of it: so they are told by hand.
    tell("wait in queue", tid, parent, os.urandom(8).hex(), since, max(0, began - since), "ok")
    sid = os.urandom(8).hex()
    if command:
        status = run([*command, folder], f"00-{tid}-{sid}-{flags}")
        level, outcome = ("info", "loaded") if status == 0 else ("error", "failed")
    else:
        status, level, outcome = 0, "warn", "skipped: no loader"
    took = (time.monotonic() - clock) * 1000
    tell("load lot", tid, parent, sid, began, took, "ok" if status == 0 else "error")
    event = {"level": level, "msg": f"lot {outcome}", "ctx": {"lot": lot, "status": status}}
    client.send("event", event, tid=tid, sid=sid)
    if status == 0:
        shutil.rmtree(folder)  # the archive has the files
    else:
        os.rename(folder, os.path.join(queue, f".{lot}.failed"))
    print(f"queue-service: lot {lot} {outcome}", flush=True)


def tell(name: str, tid: str, parent: str, sid: str, began: int, took: float, status: str) -> None:
    """Send a span that has ended."""
    data = {"name": name, "duration_ms": round(took, 3), "status": status}
    client.send("span", data, ts=began, tid=tid, sid=sid, pid=parent)


def run(command: list[str], trace: str) -> int:
    """Run a command as part of the trace; its exit status, or 127 where it cannot be run."""
    environment = dict(os.environ, TRACEPARENT=trace)
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, env=environment).returncode
    except OSError as error:
        print(f"queue-service: cannot run {command[0]}: {error.strerror}", flush=True)
        return 127


def main() -> None:
    """Look into the queue until standard input ends."""
    queue, command = sys.argv[1], sys.argv[2:]
    print("queue-service: ready", flush=True)
    client.log_event("info", "ready", {"queue": queue})
    if not command:
        client.log_event("warn", "there is no loader: lots are not loaded")
    due, ending = 0.0, False
    while not ending:
        if time.monotonic() >= due:
            due = time.monotonic() + BEAT_S
            client.heartbeat(interval_s=BEAT_S)
            client.log_resource()
        ending = bool(select.select([sys.stdin], [], [], POLL_S)[0])
        lots = waiting(queue)
        for depth, (since, lot, trace) in zip(range(len(lots), 0, -1), lots):
            client.log_metric("queue_depth", depth, unit="lots")
            handle(queue, lot, trace, since, command)
            client.log_metric("queue_depth", depth - 1, unit="lots")
    client.log_resource()
    client.close()
    print(
        f"queue-service: sent {client.sent} messages,"
        f" dropped {client.dropped}, refused {client.refused}"
    )


if __name__ == "__main__":
    main()
