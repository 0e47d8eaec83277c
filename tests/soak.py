"""Mixed load, random faults, an oracle outside: `python tests/soak.py --seconds 600 [--seed N]`.

Clients send numbered frames in sessions that go on over everything. Meanwhile the sidecar is
killed, stopped for a moment, reloaded, and one of its backends loses its folder. In the end all
is made well again, and then: every acknowledged id is in every backend, every id there was issued,
payloads are intact, each source is in order, a fresh message passes, memory and descriptors are flat.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import threading
import time

from raw import RawSession, file_config, numbered
from support import SidecarProcess, eventually

CLIENTS = 3
#: What a process that has been through everything may have more than at its start.
MAX_GROWTH_KIB, MAX_MORE_DESCRIPTORS = 60_000, 5


class Client(RawSession):
    """Sends frames of many sizes, which the oracle can make again, until it is told to stop."""

    def __init__(self, unix, number):
        super().__init__(unix, "soak", src=f"soak{number}", window=40, burst=10)
        self.stop = threading.Event()
        self.fault = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def frame(self, q):
        return numbered(q, self.src, "x" * (q * 7919 % 400))

    def _run(self):
        try:
            while not self.stop.is_set():
                self.pump()
                self.stop.wait(0.02)
        except BaseException as fault:
            self.fault = fault

    def finish(self):
        self.stop.set()
        self.thread.join()
        if self.fault is not None:
            raise self.fault
        self.drain()
        self.close()


class Soak:
    """The sidecar under test, what is done to it, and what must be true in the end."""

    def __init__(self, folder, seed):
        self.folder = folder
        self.random = random.Random(seed)
        self.did = collections.Counter()
        self.outs = {"steady": folder / "out.jsonl", "flaps": folder / "flaps" / "out.jsonl"}
        self.config = file_config(folder, buffers={"max_queue_size": 500},
                                  shutdown_timeout=1)
        rotate = {"max_bytes": 0}
        self.config["backends"] = {
            name: {"type": "file", "path": str(path), "rotate": rotate}
            for name, path in self.outs.items()
        }
        self.sidecar = None
        self.flapped = False
        self.start()
        self.clients = [Client(self.sidecar.ready["unix"], n) for n in range(CLIENTS)]

    def start(self):
        home = self.folder / f"life-{self.did['start']}"
        self.did["start"] += 1
        home.mkdir()
        self.sidecar = SidecarProcess(home, config=self.config)
        self.begun = None

    def run(self, seconds):
        end = time.monotonic() + seconds
        faults = [self.kill, self.flap, self.reload, self.stop_and_go, self.restart]
        while time.monotonic() < end:
            fault = self.random.choices(faults, weights=[3, 4, 4, 2, 1])[0]
            fault()
            self.did[fault.__name__] += 1
            time.sleep(self.random.uniform(0.05, 0.8))
            self.begun = self.begun or self.usage()
        self.heal()
        for client in self.clients:
            client.finish()

    def kill(self):
        self.sidecar.process.kill()
        self.sidecar.process.communicate()
        self.start()

    def restart(self):
        status, said = self.sidecar.stop()  # 1 where a client was cut off while it was sending
        assert status in (0, 1) and "are lost" not in said, said
        self.start()

    def stop_and_go(self):
        self.sidecar.process.send_signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(0.01, 0.5))
        self.sidecar.process.send_signal(signal.SIGCONT)

    def flap(self):
        """A file in place of a folder, and back."""
        here, away = self.folder / "flaps", self.folder / "away"
        if self.flapped:
            here.unlink()
            if away.exists():
                away.rename(here)
        else:
            if here.exists():
                here.rename(away)
            here.write_text("in the way")
        self.flapped = not self.flapped

    def reload(self):
        """Other settings for a random backend; at times such as are faulty."""
        backend = self.config["backends"][self.random.choice(list(self.outs))]
        backend["fsync"] = self.random.choice(["never", "batch", "interval"])
        path = self.sidecar.folder / "config.json"
        text = json.dumps(self.config)
        path.write_text(text if self.random.random() < 0.8 else text[: len(text) // 2])
        self.sidecar.process.send_signal(signal.SIGHUP)

    def heal(self):
        if self.flapped:
            self.flap()

    def usage(self):
        pid = self.sidecar.process.pid
        with open(f"/proc/{pid}/status") as status:
            kib = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        return kib, len(os.listdir(f"/proc/{pid}/fd"))

    # -- the oracle ----------------------------------------------------------------------------

    def check(self):
        wanted = sum(client.sent for client in self.clients)
        for client in self.clients:
            assert client.acked == client.sent and client.levels.keys() == {"disk"}
        for name, path in self.outs.items():
            eventually(lambda path=path: self.count(path) >= wanted, f"every id in {name}")
            self.check_backend(name, path)
        fresh = RawSession(self.sidecar.ready["unix"], "fresh", src="fresh", window=1, burst=1)
        fresh.pump()
        fresh.drain()
        fresh.close()
        for path in self.outs.values():
            eventually(lambda path=path: numbered(1, "fresh") in path.read_bytes(), "a fresh message")
        self.sidecar.check_conservation()
        if self.begun is not None:
            (kib, fds), (kib_then, fds_then) = self.usage(), self.begun
            assert kib - kib_then < MAX_GROWTH_KIB, f"from {kib_then} to {kib} KiB"
            assert fds - fds_then <= MAX_MORE_DESCRIPTORS, f"from {fds_then} to {fds} descriptors"
        status, said = self.sidecar.stop()
        assert status == 0, said

    def count(self, path):
        """How many distinct lines a backend has."""
        return len(set(path.read_bytes().splitlines())) if path.exists() else 0

    def check_backend(self, name, path):
        lines = collections.defaultdict(dict)  # source -> its lines, as they first came
        for line in path.read_bytes().splitlines(keepends=True):
            lines[json.loads(line)["src"]].setdefault(line)
        for client in self.clients:
            issued = [client.frame(q) for q in range(1, client.sent + 1)]
            assert list(lines.pop(client.src)) == issued, f"{name}: missing, foreign or out of order"
        assert not lines, f"{name}: never issued"

    def end(self):
        for client in self.clients:
            client.stop.set()
            client.thread.join()
            client.close()
        self.sidecar.process.kill()
        self.sidecar.process.communicate()


def soak(folder, seconds, seed):
    """Do it all; what was done, as text."""
    run = Soak(folder, seed)
    try:
        run.run(seconds)
        run.check()
    finally:
        run.end()
    sent = sum(client.sent for client in run.clients)
    reconnects = sum(client.connects for client in run.clients)
    did = ", ".join(f"{name} {count}" for name, count in sorted(run.did.items()))
    return f"seed {seed}: {sent} messages, {reconnects} connections; {did}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print(soak(pathlib.Path(folder), options.seconds, options.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
