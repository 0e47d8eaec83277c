"""The sidecar: everything that a configuration asks for, started and stopped in order."""

from __future__ import annotations

import errno
import os

from wafermon import __version__
from wafermon.delivery import DeadLetters, Pipeline, Tail
from wafermon.flow import Correlator
from wafermon.net import AdminServer, EventLoop, Server
from wafermon.observe import Family, Registry, family
from wafermon.sidecar import build, pages
from wafermon.sidecar.schema import Config


class Sidecar:
    """A whole sidecar out of the library's parts; several may live in one process.

    It installs no signal handlers and changes nothing of the process.

    Args:
        config: what to build.

    Raises:
        ConfigError: a part cannot be built.

    Thread: `start` and `stop` the owner's; `abort` and `collect` any.

    >>> from wafermon.sidecar.load import parse
    >>> config = parse({"sidecar": {"data_dir": tmp, "tcp": {"port": 0},
    ...                             "health": {"metrics_port": 0}}})
    >>> with Sidecar(config) as sidecar:
    ...     sorted(sidecar.addresses())
    ['admin', 'tcp', 'unix']
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.registry = Registry()
        self.tail = Tail()
        self.correlator = Correlator()
        self.loop = EventLoop()
        self._checked = self.loop.clock()
        self._dead_route = build.dead_letter_route(config)
        dead_letters = DeadLetters(self._dead_route)
        self.pipeline = Pipeline(
            build.router(config),
            build.routes(config, dead_letters.refused),
            observers=[self.correlator, self.tail],
            dead_letters=dead_letters,
            call_soon=self.loop.call_soon,
        )
        self.server = Server(build.listens(config), self.pipeline, loop=self.loop)
        health = config.sidecar.health
        self.admin = AdminServer(
            health.host,
            health.metrics_port,
            {
                "/health": pages.health(self.pipeline, self.status),
                "/metrics": pages.metrics(self.registry),
                "/tail": pages.stream(self.tail),
            },
        )
        for part in (self.pipeline, self.server, self.correlator):
            self.registry.register(part.collect)
        self.registry.register(self.collect)

    def addresses(self) -> dict[str, str]:
        """Where it listens: `tcp`, `unix`, `admin`. After `start`."""
        tcp, unix = self.server.addresses
        return {"tcp": tcp, "unix": unix, "admin": self.admin.address}

    def start(self) -> None:
        """Bind everything, then serve; all or nothing.

        Raises:
            OSError: a folder or an address that cannot be had; the text names it.
        """
        _make_folder(self.config.sidecar.data_dir)
        self.server.bind()
        try:
            self.admin.start()
        except OSError:
            self.server.stop()
            raise
        self._dead_route.start()
        self.pipeline.start()
        self.loop.call_soon(self._check)
        self.server.start()

    def _check(self) -> None:
        """Prove that the loop runs, and mend what can be mended, every now and then."""
        self._checked = self.loop.clock()
        self.server.mend()
        self.loop.call_later(self.config.sidecar.health.health_check_interval, self._check)

    def status(self) -> str:
        """What `/health` begins with: `ok`, `draining`, or `down` where the loop is stuck."""
        late = self.loop.clock() - self._checked
        if late > 3 * self.config.sidecar.health.health_check_interval + 5:
            return "down"
        return "draining" if self.server.draining else "ok"

    def stop(self, timeout: float = 10.0) -> int:
        """Stop accepting, take what has arrived, deliver everything now. Twice is harmless.

        Args:
            timeout: seconds for all of it.

        Returns:
            How many messages could not be delivered.
        """
        began = self.loop.clock()
        self.server.stop(timeout)
        lost = self.pipeline.stop(max(0.0, began + timeout - self.loop.clock()))
        self._dead_route.stop(1.0)
        self.tail.close()
        self.admin.stop()
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
            family(
                "sidecar_dead_letters_total",
                "counter",
                "Records for the dead-letter file, by outcome.",
                {
                    "offered": self._dead_route.offered,
                    "written": self._dead_route.delivered,
                    "dropped": self._dead_route.dropped["queue_full"],
                },
                "outcome",
            ),
        ]


def _make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno or 0, f"cannot use the data folder {path}: {error.strerror}"
        ) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, f"cannot use the data folder {path}: not writable")
