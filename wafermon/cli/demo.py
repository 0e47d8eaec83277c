"""see it at work: four little services and their trace

Everything is real: the sidecar, the services (processes of their own), the files, the database.
Only the tester whose datalogs they take in is a generator.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import shlex
import signal
import sys
import time
from collections import Counter
from typing import Any, Optional

from wafermon.backends.store_query import Store
from wafermon.backends.store_schema import StoreError
from wafermon.cli.lines import clipped, style_of, visible
from wafermon.cli.query import STORE_FILE
from wafermon.cli.run import EX_CONFIG, host_and_port
from wafermon.cli.trace import stored
from wafermon.cli.tree import counted, draw, pen_for
from wafermon.demo.crew import Crew, CrewError, Heard, Interrupted, Tally
from wafermon.demo.database import loaded
from wafermon.demo.datalog import Lot, lot_name, write_lot
from wafermon.errors import ConfigError
from wafermon.flow.selection import Selection
from wafermon.sidecar import Sidecar, parse

#: Seconds from the begin of one lot to that of the next, and the longest that one may take.
PACE = 2.0
PATIENCE = 60.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: The service whose span is the root of a lot's trace.
_FIRST = "file-receiver"
_SERVICES = ("config-service", "file-receiver", "queue-service", "db-loader")
_FINISHED = re.compile(r"queue-service: lot (\S+) (.*)")
TYPES = ("event", "metric", "progress", "resource", "span", "heartbeat", "goodbye")

EPILOG = """\
A tester puts wafer-test datalogs into a folder; file-receiver checks and archives them,
queue-service lets them wait, db-loader (Perl) parses them and loads them into SQLite, and
config-service tells them how. All four report to the sidecar, and at the end you see what it has:
one trace across the four, counts, losses. Without --once lots keep coming until Ctrl-C.

Files: the store in the data folder, the rest in its folder demo/ (what an earlier demo has left
in the inbox and in the queue there is removed).

exit status: 0 all went well, 1 it did not or could not start

examples:
  wafermon demo --once
  wafermon demo --tcp 127.0.0.1:0 --admin 127.0.0.1:0     where the ports are taken
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """How long, and where."""
    parser.add_argument("--once", action="store_true", help="one lot, then the summary")
    parser.add_argument("--data", metavar="DIR", help="data folder (default ./wafermon-data)")
    parser.add_argument(
        "--tcp", metavar="HOST:PORT", type=host_and_port, help="default 127.0.0.1:17000"
    )
    parser.add_argument("--unix", metavar="PATH", help="default sidecar.sock in the data folder")
    parser.add_argument(
        "--admin", metavar="HOST:PORT", type=host_and_port, help="default 127.0.0.1:17001"
    )


def run(options: argparse.Namespace) -> int:
    """Show it."""
    logging.basicConfig(stream=sys.stderr, format="wafermon: %(levelname)s: %(message)s")
    if hasattr(sys.stdout, "reconfigure"):  # a locale that lacks a letter must not end the demo
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        sidecar = Sidecar(parse(_document(options)))
        sidecar.start()
    except ConfigError as error:
        print(*(f"wafermon demo: {fault}" for fault in error.faults), sep="\n", file=sys.stderr)
        return EX_CONFIG
    except OSError as error:
        print(f"wafermon demo: {_explained(error)}", file=sys.stderr)
        return 1
    try:
        return Demo(sidecar, options.once).run()
    except BrokenPipeError:  # `| head` has seen enough
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 1
    finally:
        sidecar.stop()


def _document(options: argparse.Namespace) -> dict[str, Any]:
    """The config: no file, so that the demo touches nothing that is in use."""
    settings: dict[str, Any] = {}
    if options.data is not None:
        settings["data_dir"] = options.data
    if options.tcp is not None:
        settings["tcp"] = {"host": options.tcp[0], "port": options.tcp[1]}
    if options.unix is not None:
        settings["unix"] = {"path": options.unix}
    if options.admin is not None:
        settings["health"] = {"host": options.admin[0], "metrics_port": options.admin[1]}
    return {"sidecar": settings}


def _explained(error: OSError) -> str:
    text = str(error.strerror or error)
    if error.errno == errno.EADDRINUSE and "listen on /" in text:
        return f"{text} (another folder: --data DIR)"
    if error.errno == errno.EADDRINUSE:
        return f"{text} (free ports: --tcp 127.0.0.1:0 --admin 127.0.0.1:0)"
    if error.errno == errno.ENAMETOOLONG:
        return f"{text} (--unix PATH)"
    return text


class Demo:
    """One run: the tester, the crew, and what is printed.

    Args:
        sidecar: started; is stopped when all has been said.
        once: one lot, or lots until a signal comes.
    """

    def __init__(self, sidecar: Sidecar, once: bool) -> None:
        self.sidecar = sidecar
        self.once = once
        self.at = sidecar.addresses()
        self.data = sidecar.config.sidecar.data_dir
        self.folder = os.path.join(self.data, "demo")
        self.crew = Crew(self.folder, self.at["tcp"])
        self.style = style_of(sys.stdout)
        self.lots: list[Lot] = []
        self.finished: dict[str, str] = {}
        self.set_aside = 0
        self.began_ms = int(time.time() * 1000)

    def run(self) -> int:
        """Everything, up to the exit status."""
        handlers = {number: signal.signal(number, self.crew.interrupt) for number in _SIGNALS}
        faults: list[str] = []
        try:
            self._greet()
            try:
                self.crew.start()
                self._work()
            except Interrupted:
                pass  # before all were ready: that, too, is how one ends it
            except (CrewError, OSError) as error:
                if isinstance(error, BrokenPipeError):
                    raise
                faults.append(str(error))
            finally:
                rest = self.crew.stop()
            for line in rest:
                self._hear(line)
            lost = self.sidecar.stop()
            try:
                faults += self._sum_up(lost)
            except StoreError as error:
                faults.append(str(error))
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        for fault in faults:
            print(f"wafermon demo: {fault}", file=sys.stderr)
        return 1 if faults else 0

    def _greet(self) -> None:
        at, program = self.at, _program()
        print(f"sidecar    listens on {at['tcp']} and {at['unix']}")
        print(f"look at    http://{at['admin']}/")
        print(f"services   {', '.join(_SERVICES)}, in {self.folder}")
        if self.crew.perl is None:
            print("           no perl on PATH: db-loader is skipped, nothing will be loaded")
        if not self.once:
            print(f"meanwhile  {program} tail --admin {at['admin']}")
            print("Ctrl-C     ends it, with a summary")
        print()

    def _work(self) -> None:
        """Let the tester test lots."""
        number = 0
        while True:
            due = time.monotonic() + PACE
            number = max(number + 1, int(time.time()))
            lot = write_lot(self.crew.inbox, lot_name(number))
            self.lots.append(lot)
            if self.once:
                print(f"tester: lot {lot.name}: {lot.files} files, {lot.cut_off} of them cut off")
            if not self._listen(time.monotonic() + PATIENCE, lot) or self.once:
                return
            if not self._listen(due):
                return

    def _listen(self, until: float, lot: Optional[Lot] = None) -> bool:
        """Hear the crew, until a time or until a lot is finished; False where it is to end."""
        while lot is None or lot.name not in self.finished:
            try:
                heard: Heard = self.crew.next(until - time.monotonic())
            except TimeoutError:
                if lot is None:
                    return True
                raise CrewError(f"lot {lot.name} is not finished after {PATIENCE:.0f} s") from None
            if not isinstance(heard, str):
                return False
            self._hear(heard)
        return True

    def _hear(self, line: str) -> None:
        """Show a line of a service: all stages of the one lot, else a line a lot."""
        if line.split(":")[0] not in _SERVICES:
            print(line, file=sys.stderr)  # of no service: a traceback
            return
        if self.once:
            print(visible(line))
        elif self.style.terminal:
            self._put(visible(line), end="")
        match = _FINISHED.match(line)
        if match:
            name, outcome = match.groups()
            self.finished[name] = outcome
            self._report(name, outcome)

    def _report(self, name: str, outcome: str) -> None:
        aside = os.path.join(self.folder, "bad", name)
        files = len(os.listdir(aside)) if os.path.isdir(aside) else 0
        self.set_aside += files
        if not self.once:
            got = loaded(self.crew.database, name, name)
            self._put(
                f"lot {name}  {outcome}: {got}, {counted(files, 'file')} set aside",
                end="\n",
            )

    def _put(self, line: str, end: str) -> None:
        """Print a line; on a terminal over the one that stands there for the time being."""
        if self.style.terminal:
            width = self.style.width or 80  # some terminals do not tell
            line = "\r\x1b[K" + clipped(line, width - 1)
        print(line, end=end, flush=True)

    # -- the summary ----------------------------------------------------------------------------

    def _sum_up(self, lost: int) -> list[str]:
        """Print what this run has brought; returns what is wrong with it."""
        if self.style.terminal and not self.once:
            self._put("", end="")
        store = Store(os.path.join(self.data, STORE_FILE))
        counts: Counter[tuple[str, str]] = Counter()
        tid = ""
        for _, _, message in store.query(Selection(since_ms=self.began_ms)):
            counts[message["src"], message["type"]] += 1
            if message["type"] == "span" and message["src"] == _FIRST and "pid" not in message:
                tid = message["tid"]
        if tid:
            self._print_trace(store, tid)
        _print_counts(counts, self.crew.tallies)
        faults = self._print_losses(counts, lost)
        if self.lots:
            faults += self._print_loaded()
        self._print_where(tid)
        return faults

    def _print_trace(self, store: Store, tid: str) -> None:
        found = stored(store, tid)
        if found is not None:
            print()
            print(*draw(found, self.style, pen_for(sys.stdout)), sep="\n")

    def _print_losses(self, counts: Counter[tuple[str, str]], lost: int) -> list[str]:
        pipeline, tallies = self.sidecar.pipeline, self.crew.tallies
        dropped = sum(sum(route.dropped.values()) for route in pipeline.routes.values())
        kept = sum(
            count for (src, kind), count in counts.items() if src in tallies and kind != "goodbye"
        )
        sent = sum(tally.sent for tally in tallies.values())
        losses = {
            "rejected": sum(pipeline.rejected.values()),
            "dropped by the sidecar": max(dropped, lost),
            "dropped by an SDK": sum(tally.dropped for tally in tallies.values()),
            "refused by an SDK": sum(tally.refused for tally in tallies.values()),
            "sent and not stored": max(0, sent - kept),
        }
        print("\nlosses: " + ", ".join(f"{count} {what}" for what, count in losses.items()))
        return [f"{count} messages {what}" for what, count in losses.items() if count]

    def _print_loaded(self) -> list[str]:
        got = loaded(self.crew.database, self.lots[0].name, self.lots[-1].name)
        files = sum(lot.files for lot in self.lots)
        cut_off = sum(lot.cut_off for lot in self.lots)
        dies = sum(lot.dies for lot in self.lots)
        print(
            f"\ntested:    {counted(len(self.lots), 'lot')}, {counted(files, 'file')},"
            f" {cut_off} of them cut off, {counted(dies, 'die')} in the others"
        )
        print(f"set aside: {counted(self.set_aside, 'file')}, in {self.folder}/bad")
        faults = [] if cut_off == self.set_aside else ["a file was set aside by mistake, or not"]
        if self.crew.perl is None:
            print("loaded:    nothing, as there is no perl")
            return faults
        print(f"loaded:    {counted(got.lots, 'lot')}, {got}, in {self.folder}/wafers.db")
        if got.dies != dies:
            faults.append(f"{dies} dies were tested, {got.dies} loaded")
        return faults

    def _print_where(self, tid: str) -> None:
        program, folder = _program(), shlex.quote(self.data)
        print("\nwhere to look further:")
        if tid:
            print(f"  {program} trace --data {folder} {tid[:8]}")
            print(f"  {program} query --data {folder} --tid {tid}")
        print(f"  {program} query --data {folder} --level warn")
        if self.once:
            print(f"  {program} demo   goes on until Ctrl-C; {program} tail shows it live, and")
            print("  curl http://127.0.0.1:17001/metrics   what the sidecar counts meanwhile")
        print(f"  {self.folder}/services   the scripts: how each of them is instrumented")


def _print_counts(counts: Counter[tuple[str, str]], tallies: dict[str, Tally]) -> None:
    """What the store has, by source and type, and what each SDK says that it sent."""
    print("\nmessages in the store, by source and type (sent: what the SDK counted, no goodbyes):")
    sources = sorted({src for src, _ in counts} | set(tallies))
    width = max([len(visible(src)) for src in sources], default=0)
    print(" " * width + "".join(f"{kind:>10}" for kind in (*TYPES, "total", "sent")))
    for src in sources:
        row: list[object] = [counts[src, kind] for kind in TYPES]
        total = sum(counts[src, kind] for kind in TYPES)
        sent: object = tallies[src].sent if src in tallies else "-"
        print(f"{visible(src):<{width}}" + "".join(f"{cell!s:>10}" for cell in (*row, total, sent)))


def _program() -> str:
    """How this program was called, for the commands that are proposed."""
    name = os.path.basename(sys.argv[0])
    if name.endswith(".pyz"):
        return f"python3 {shlex.quote(sys.argv[0])}"
    return "python3 -m wafermon" if name == "__main__.py" else "wafermon"
