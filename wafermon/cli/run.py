"""run the sidecar

The command owns the process, so it may do what the library never does: take the signals, and
collect garbage on a timer in place of Python's automatic passes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
from typing import Any, Optional

from wafermon.cli.log_lines import LogLines, is_journal
from wafermon.cli.notify import Notify
from wafermon.cli.orphans import adopt_orphans
from wafermon.cli.signals import Signals
from wafermon.errors import ConfigError
from wafermon.net import Inherited
from wafermon.sidecar import Config, Reloader, Sidecar, find_config, parse
from wafermon.sidecar.formats import read_document
from wafermon.sidecar.secrets import Credentials

EX_CONFIG = 78

log = logging.getLogger("wafermon.run")

EPILOG = """\
With no config it listens on TCP 127.0.0.1:17000 and on a Unix socket in the data folder, keeps
everything in ./wafermon-data/, and shows itself at http://127.0.0.1:17001/.

The config is the first of: --config, CONFIG_FILE, WAFERMON_CONFIG,
/etc/wafermon/wafermon.yaml, .toml, .json.

SIGTERM or SIGINT: take what has arrived, deliver everything, end. A second one: end now.
SIGHUP: read the config again, as after a change of the file; a faulty one changes nothing.

exit status: 0 all delivered, 1 failed to start or something was given up, 78 bad config

examples:
  wafermon run
  wafermon run --config wafermon.yaml
  wafermon run --data /var/lib/wafermon --tcp 127.0.0.1:0 --ready-file /run/wafermon/ready
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said instead of, or on top of, a config file."""
    parser.add_argument("--config", metavar="FILE", help="config in JSON, TOML or YAML")
    parser.add_argument("--data", metavar="DIR", help="data folder (default ./wafermon-data)")
    parser.add_argument(
        "--tcp", metavar="HOST:PORT", type=host_and_port, help="default 127.0.0.1:17000"
    )
    parser.add_argument("--unix", metavar="PATH", help="default sidecar.sock in the data folder")
    parser.add_argument(
        "--admin", metavar="HOST:PORT", type=host_and_port, help="default 127.0.0.1:17001"
    )
    parser.add_argument(
        "--ready-file",
        metavar="PATH",
        help="written once everything listens, with pid and addresses as JSON; removed at the end",
    )


def host_and_port(text: str) -> tuple[str, int]:
    """Read `HOST:PORT`, `[HOST]:PORT` or `:PORT`.

    >>> host_and_port("[::1]:0"), host_and_port(":80")
    (('::1', 0), ('127.0.0.1', 80))
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise argparse.ArgumentTypeError(
            f"expected HOST:PORT such as 127.0.0.1:17000, got {text!r}"
        )
    return host.strip("[]") or "127.0.0.1", int(port)


def run(options: argparse.Namespace) -> int:
    """Start, wait for a signal, stop."""
    lines = LogLines(sys.stderr, journal=is_journal(2, os.environ))
    logging.basicConfig(handlers=[lines])
    try:
        with contextlib.closing(lines), contextlib.closing(Signals()) as signals:
            return _run(options, signals, lines)
    finally:
        _leave_stderr()


def _run(options: argparse.Namespace, signals: Signals, lines: LogLines) -> int:
    if os.getpid() == 1:
        adopt_orphans()
    notify = Notify.from_environ(os.environ, os.getpid())
    reloader = Reloader(lambda: configure(options), lambda: find_config(options.config, os.environ))
    try:
        sidecar = Sidecar(
            reloader.first(),
            credentials=Credentials(os.environ.get("CREDENTIALS_DIRECTORY")),
            inherited=Inherited.from_environ(os.environ, os.getpid()),
            loaded=reloader.loaded,
        )
        lines.follow(**dataclasses.asdict(sidecar.config.sidecar.logging))
        sidecar.start()
    except ConfigError as error:
        path = find_config(options.config, os.environ)
        for fault in error.faults:
            say(fault if path is None or path in fault else f"{path}: {fault}")
        return EX_CONFIG
    except OSError as error:
        say(error.strerror or str(error))
        return 1
    try:
        _write_ready(options.ready_file, sidecar.addresses())
        return _serve(sidecar, reloader, signals, lines, notify, options.ready_file)
    except OSError as error:
        say(f"cannot write the ready file {options.ready_file}: {error.strerror}")
        sidecar.stop(sidecar.config.sidecar.shutdown_timeout)
        return 1
    finally:
        _remove_ready(options.ready_file)


def say(text: str) -> None:
    """A line on stderr, as far as there is one: a closed pipe or a full disk must stop nothing."""
    with contextlib.suppress(OSError, ValueError):
        print(f"wafermon: {text}", file=sys.stderr, flush=True)


def _leave_stderr() -> None:
    """Let a stderr that nobody reads make no failure of a clean end: the interpreter flushes it
    last of all, and exits with 120 where that fails with a line that `logging` left there."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def configure(options: argparse.Namespace) -> Config:
    """The config file, if there is one, with the options on top.

    Raises:
        ConfigError: with every fault.
    """
    path = find_config(options.config, os.environ)
    document: Any = {} if path is None else read_document(path)
    if isinstance(document, dict):
        if options.data is not None:
            _put(document, "data_dir", options.data)
        if options.tcp is not None:
            _put(document, "tcp", {"host": options.tcp[0], "port": options.tcp[1]})
        if options.unix is not None:
            _put(document, "unix", {"path": options.unix})
        if options.admin is not None:
            _put(document, "health", {"host": options.admin[0], "metrics_port": options.admin[1]})
    return parse(document)


def _put(document: dict[str, Any], key: str, value: Any) -> None:
    """Set a key of the section `sidecar`; what is no section is left for the loader to tell."""
    sidecar = document.get("sidecar")
    if sidecar is None:
        sidecar = document["sidecar"] = {}
    if not isinstance(sidecar, dict):
        return
    if isinstance(value, dict) and isinstance(sidecar.get(key), dict):
        sidecar[key].update(value)
    else:
        sidecar[key] = value


def _serve(
    sidecar: Sidecar,
    reloader: Reloader,
    signals: Signals,
    lines: LogLines,
    notify: Notify,
    ready_file: Optional[str],
) -> int:
    log.info("%s", _at(sidecar))
    notify.ready(_at(sidecar))
    notify.watch(sidecar.loop, lambda: sidecar.progresses)
    gc.collect()
    gc.freeze()
    gc.disable()
    reloader.start(
        lambda config: _reload(sidecar, config, lines, notify, ready_file),
        lambda: sidecar.config.sidecar.reload.poll,
        notify.reloading,
    )
    while True:
        try:
            number = signals.get(sidecar.config.sidecar.performance.gc_interval)
        except socket.timeout:
            gc.collect()
            lines.flush()
            continue
        if number != signal.SIGHUP:
            break
        reloader.request()
    reloader.stop()
    log.info("%s, stopping", signal.Signals(number).name)
    notify.stopping("delivering what has arrived")
    lost = _stop(sidecar, signals)
    if lost:
        log.error("%d messages could not be delivered and are lost", lost)
    if sidecar.cut_off:
        log.warning("%d connections were closed with data unread: their senders were faster than "
                    "the backends; a longer sidecar.shutdown_timeout gives them time",
                    sidecar.cut_off)  # fmt: skip
    return 1 if lost or sidecar.cut_off else 0


def _at(sidecar: Sidecar) -> str:
    at = "listening on tcp {tcp} and unix {unix}, admin http://{admin}"
    return at.format(**sidecar.addresses())


def _reload(
    sidecar: Sidecar, config: Config, lines: LogLines, notify: Notify, ready_file: Optional[str]
) -> bool:
    before = sidecar.addresses()
    differs = sidecar.reload(config)
    lines.follow(**dataclasses.asdict(config.sidecar.logging))
    if sidecar.addresses() != before:
        notify.status(_at(sidecar))
        _write_ready(ready_file, sidecar.addresses())
    return differs


def _stop(sidecar: Sidecar, signals: Signals) -> int:
    """Stop on a thread of its own, so that a second signal can cut it short."""
    lost = [0]

    def stop() -> None:
        lost[0] = sidecar.stop(sidecar.config.sidecar.shutdown_timeout)
        signals.put(0)

    threading.Thread(target=stop, name="stop").start()
    while number := signals.get():
        if number == signal.SIGHUP:
            continue  # what ends reads nothing again
        log.warning("a second signal, stopping now")
        sidecar.abort()
    return lost[0]


def _write_ready(path: Optional[str], addresses: dict[str, str]) -> None:
    """By rename, so that nobody reads half of it."""
    if path is not None:
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"pid": os.getpid(), **addresses}, file)
            file.write("\n")
        os.rename(temporary, path)


def _remove_ready(path: Optional[str]) -> None:
    if path is not None:
        with contextlib.suppress(OSError):
            os.unlink(path)
