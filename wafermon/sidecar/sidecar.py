"""The sidecar: everything that a configuration asks for, started and stopped in order."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from typing import Optional

from wafermon import __version__
from wafermon.delivery import DeadLetters, Journal, Pipeline, Slots, Tail
from wafermon.errors import ConfigError
from wafermon.flow import Correlator, RecentErrors, UserMetrics
from wafermon.net import AdminServer, EventLoop, Inherited, Server, Workers
from wafermon.observe import Family, Registry, family, process
from wafermon.sidecar import build
from wafermon.sidecar.alerting import Alerting
from wafermon.sidecar.data_dir import DISK_FAULTS, DataDir
from wafermon.sidecar.exchange import Exchange
from wafermon.sidecar.health import Health
from wafermon.sidecar.job_history import JobHistory
from wafermon.sidecar.listeners import gate, listens
from wafermon.sidecar.pages import pages
from wafermon.sidecar.pages.live import Live
from wafermon.sidecar.pages.summary import Summary
from wafermon.sidecar.reload import Loaded, needs_restart
from wafermon.sidecar.schema import Config
from wafermon.sidecar.secrets import Credentials
from wafermon.sidecar.traces import SettledTraces, bounds
from wafermon.wire import SessionTable

log = logging.getLogger("wafermon.sidecar")

#: How often the health of all parts is looked at.
LOOK_SECONDS = 2.0


class Sidecar:
    """A whole sidecar out of the library's parts; several may live in one process.

    It installs no signal handlers and changes nothing of the process.

    Args:
        config: what to build.
        credentials: finds the files of secrets and certificates.
        inherited: sockets that are there already, used in place of binding.
        loaded: where the configuration comes from, for `/health`; an own one by default.

    Raises:
        ConfigError: a part cannot be built.

    Thread: `start` and `stop` the owner's; `reload`, `abort` and `collect` any.

    >>> from wafermon.sidecar.load import parse
    >>> config = parse({"sidecar": {"data_dir": tmp, "tcp": {"port": 0},
    ...                             "health": {"metrics_port": 0}}})
    >>> with Sidecar(config) as sidecar:
    ...     sorted(sidecar.addresses())
    ['admin', 'tcp', 'unix']
    """

    def __init__(
        self,
        config: Config,
        *,
        credentials: Optional[Credentials] = None,
        inherited: Optional[Inherited] = None,
        loaded: Optional[Loaded] = None,
    ) -> None:
        build.check(config)
        self._credentials = credentials or Credentials()
        self._inherited = inherited or Inherited([])
        self._listens = listens(config, self._credentials, self._inherited)
        self._gate = gate(config, self._credentials)
        self._inherited.warn_of_unused()
        #: What is in force.
        self.config = config
        #: Where that comes from.
        self.loaded = loaded or Loaded()
        self._changing = threading.Lock()
        self._stopping = threading.Event()
        self._slots = Slots(config.sidecar.performance.worker_threads)
        self.registry = Registry()
        #: What sources measure: a registry of its own, as these names are not ours.
        self.message_registry = Registry()
        measured = config.sidecar.user_metrics
        self.user_metrics = UserMetrics(
            max_series=measured.max_series, stale_seconds=measured.stale_after
        )
        self.tail = Tail()
        self.summary = Summary(self)
        self.live = Live(self.summary.value)
        self.loop = EventLoop()
        self.correlator = Correlator(**bounds(config.traces))
        self.settled_traces = SettledTraces(self.correlator, config.traces, self.loop)
        self.presence = build.presence(config, self.loop.clock())
        self.jobs = build.jobs(config, self.presence)
        self.recent_errors = RecentErrors()
        runs = os.path.join(config.sidecar.data_dir, "jobs.jsonl")
        self._job_history = JobHistory(runs, self.jobs)
        self.alerting = Alerting(self.loop)
        processes = config.sidecar.performance.processes
        self.workers = Workers(processes - 1, self.loop) if processes > 1 else None
        self._data_dir = DataDir(config.sidecar.data_dir)
        self.journal: Optional[Journal] = build.journal(config, self._data_dir.take)
        self._checked = self.loop.clock()
        self._dead_letters: DeadLetters = build.dead_letters(config)
        self.pipeline: Pipeline
        self.server: Server
        self.health: Health
        self.admin: AdminServer

    def _build(self) -> None:
        """Make what stands on the journal; it is open."""
        config, journal = self.config, self.journal
        self.pipeline = Pipeline(
            build.router(config),
            build.routes(config, self._dead_letters.refused, journal, self._slots),
            observers=[
                self.presence,
                self.jobs,
                self.correlator,
                self.user_metrics,
                self.recent_errors,
                self.alerting,
                self.tail,
            ],
            watchers=[self.presence],
            dead_letters=self._dead_letters,
            rate_limit=build.rate_limit(config),
            journal=journal,
            call_soon=self.loop.call_soon,
        )
        sessions = SessionTable()
        if journal is not None:
            sessions = SessionTable(journal.marks, on_forget=journal.forget)
            journal.on_marks = lambda marks: self.loop.call_soon(lambda: sessions.learn(marks))
        self.server = Server(
            self._listens,
            self.pipeline,
            sessions=sessions,
            loop=self.loop,
            workers=self.workers,
        )
        self.health = Health(self.pipeline, self.status, lambda: self.server.unbound)
        health = config.sidecar.health
        self.admin = AdminServer(health.host, health.metrics_port, pages(self), self._gate)
        parts = (self.pipeline, self._dead_letters, self.server, self.correlator, self.loaded)
        more = (self.settled_traces, self.user_metrics, self._job_history, process, self)
        for part in (*parts, *more):
            self.registry.register(part.collect)
        self.message_registry.register(lambda: self.user_metrics.expose(self.loop.clock()))
        if journal is not None:
            self.registry.register(journal.collect)
        if self.workers is not None:
            self.registry.register(self.workers.collect)

    def addresses(self) -> dict[str, str]:
        """Where it listens: `tcp`, `unix`, `admin`. After `start`."""
        tcp, unix = self.server.addresses
        return {"tcp": tcp, "unix": unix, "admin": self.admin.address}

    def start(self) -> None:
        """Bind everything, then serve; all or nothing.

        Raises:
            OSError: a folder or an address that cannot be had; the text names it. A disk that is
                full or fails is no such reason: what needs it is tried again.
        """
        with contextlib.ExitStack() as undo:
            if self.workers is not None:
                self.workers.start()
                undo.callback(self.workers.stop)
            undo.callback(self._data_dir.release)
            if self.journal is not None:
                self._data_dir.check_local(self.config.sidecar.journal.force)
            later = self._take_data_dir()
            if self.journal is not None:
                self.journal.open()
                undo.callback(self.journal.close)
            self._build()
            self.server.bind(later)
            undo.callback(self.server.stop)
            self.admin.start()
            undo.pop_all()
        if self.journal is not None:
            self.journal.start()
        self._dead_letters.start()
        self._job_history.start()
        self.pipeline.start()
        self.loop.call_soon(self._check)
        self.loop.call_soon(self._watch)
        self.loop.call_soon(self._look)
        self.alerting.start(self.config.alerts, self.pipeline, self.jobs)
        self.settled_traces.start(self.pipeline.submit)
        if self.workers is not None:
            self.loop.call_soon(self.workers.serve)
        self.server.start()

    def _take_data_dir(self) -> frozenset[int]:
        """Lock the folder, now or, where its disk is at fault, once that works; for which errors a
        socket file in there comes later, too."""
        try:
            self._data_dir.take()
        except OSError as error:
            if error.errno not in DISK_FAULTS:
                raise
            log.error("%s; going on without", error.strerror)
            return DISK_FAULTS | {errno.ENOENT}
        return DISK_FAULTS

    def _check(self) -> None:
        """Prove that the loop runs, and mend what can be mended, every now and then."""
        self._checked = self.loop.clock()
        self.server.mend()
        self.loop.call_later(self.config.sidecar.health.health_check_interval, self._check)

    def _watch(self) -> None:
        """Let no receipt wait for a disk that hangs."""
        if self.journal is not None:
            self.journal.watch()
            self.loop.call_later(1.0, self._watch)

    def _look(self) -> None:
        """Know since when each part does as it does."""
        self.health.look()
        self.summary.look()
        self.loop.call_later(LOOK_SECONDS, self._look)

    def reload(self, config: Config) -> bool:
        """Put another configuration in force: all of it, or nothing.

        Args:
            config: in place of the one that runs.

        Returns:
            Whether it differs. Certificates and secrets are read anew in any case.

        Raises:
            ConfigError: it cannot be built, or asks for what needs a restart; all is as before.
            OSError: an address cannot be had, or the sidecar is stopping; all is as before.
        """
        with self._changing:
            if self._stopping.is_set():
                raise OSError(errno.ESHUTDOWN, "the sidecar is stopping")
            before, timeout = self.config, config.sidecar.shutdown_timeout
            faults = needs_restart(before, config)
            if faults:
                raise ConfigError(faults)
            build.check(config)
            doors = listens(config, self._credentials, self._inherited)
            guard = gate(config, self._credentials)
            exchange = Exchange(self.pipeline, before, config, self._dead_letters, self._slots)
            self.server.update(doors)
            self.admin.guard(guard)
            if config == before:
                return False
            exchange.halt(timeout, cut=self._stopping)

            def swap() -> None:
                exchange.swap()
                build.follow(config, self.presence, self.jobs, self.loop.clock())
                measured = config.sidecar.user_metrics
                self.user_metrics.follow(measured.max_series, measured.stale_after)
                self.alerting.follow(config.alerts)
                self.settled_traces.follow(config.traces)

            try:
                self.server.on_loop(swap)
            except OSError:  # the loop has ended: nothing comes in any more
                swap()
            exchange.start(timeout)
            self.config = config
        log.warning("configuration reloaded; backends %s", exchange)
        return True

    def status(self) -> str:
        """What `/health` begins with: `ok`, `draining`, or `down` where the loop is stuck."""
        late = self.loop.clock() - self._checked
        if late > 3 * self.config.sidecar.health.health_check_interval + 5:
            return "down"
        return "draining" if self.server.draining else "ok"

    @property
    def progresses(self) -> bool:
        """Whether what comes in can be kept: no commit of the journal hangs. Asked on the loop,
        which proves by it that it runs itself."""
        return self.journal is None or not self.journal.hanging_seconds

    def stop(self, timeout: float = 10.0) -> int:
        """Stop accepting, take what has arrived, deliver everything now. Twice is harmless.

        Args:
            timeout: seconds for all of it.

        Returns:
            How many messages are lost: not delivered, and not in the journal; rejected ones, too,
            whose dead letters could not be written.
        """
        began = self.loop.clock()
        self._stopping.set()
        if self._changing.acquire(timeout=timeout / 2):  # a reload finishes first
            self._changing.release()
        self.server.stop(timeout)
        self._job_history.stop(0.0)  # it tells how jobs are now; to wait for its disk is for later
        self.alerting.stop()
        left = 0.0 if self.server.is_serving else began + timeout - self.loop.clock()
        self.settled_traces.stop(left / 2)
        if self.workers is not None:
            self.workers.stop()
        lost = self.pipeline.stop(max(0.0, began + timeout - self.loop.clock()))
        if self.journal is not None:
            lost += self.journal.close()
        lost += self._dead_letters.stop(1.0)
        self._job_history.stop()
        self.tail.close()
        self.live.close()
        self.admin.stop()
        self._data_dir.release()
        return lost

    @property
    def cut_off(self) -> int:
        """Connections that the stop closed although they had more to read."""
        return self.server.cut_off

    def abort(self) -> None:
        """Let a `stop` that waits go on at once; what is not delivered is given up."""
        self.server.abort()
        self.pipeline.abandon()

    def __enter__(self) -> Sidecar:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(self.config.sidecar.shutdown_timeout)

    def collect(self) -> list[Family]:
        """Yield what belongs to no part."""
        return [
            family(
                "sidecar_build_info",
                "gauge",
                "Always 1; the label tells the version.",
                {__version__: 1},
                "version",
            ),
            *self.presence.collect(self.loop.clock(), time.time()),
            *self.jobs.collect(self.loop.clock(), time.time()),
            *self.alerting.collect(),
        ]
