"""A registry of wafermon as a collector of `prometheus_client`, for programs that embed the library
and expose their metrics by that. Needs the package: `pip install wafermon[prometheus]`.

>>> import prometheus_client
>>> from wafermon.observe import Registry, family
>>> ours, theirs = Registry(), prometheus_client.CollectorRegistry()
>>> ours.register(lambda: [family("hits_total", "counter", "Hits.", {"a": 3}, "source")])
>>> theirs.register(Collector(ours))
>>> theirs.get_sample_value("hits_total", {"source": "a"})
3.0
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client import registry as client

from wafermon.observe import Registry

__all__ = ["Collector"]


class Collector(client.Collector):
    """What a registry holds, as often as it is asked.

    Args:
        registry: such as that of a `Sidecar`, or one with the `collect` of parts of your own.

    Thread: any.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def describe(self) -> Iterator[Metric]:
        """Nothing: which names there are is known when they are collected."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield each family.

        Raises:
            ValueError: as `Registry.collect`.
        """
        for found in self._registry.collect():
            counted = found.kind == "counter"
            name = found.name[: -len("_total")] if counted else found.name
            metric = Metric(name, found.about, found.kind)
            for suffix, labels, value in found.all_samples():
                metric.add_sample(found.name + suffix, dict(labels), float(value))
            yield metric
