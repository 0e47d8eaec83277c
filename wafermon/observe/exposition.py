"""The Prometheus text format 0.0.4 as a function of a registry.

Source: https://github.com/prometheus/docs, exposition_formats.md.
"""

from __future__ import annotations

from wafermon.observe.metrics import Family, Registry, Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _line(name: str, sample: Sample) -> str:
    labels = ",".join(
        '{}="{}"'.format(label, _escape(value).replace('"', r"\""))
        for label, value in sample.labels
    )
    value = repr(sample.value) if isinstance(sample.value, float) else str(sample.value)
    value = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(value, value)
    return f"{name}{sample.suffix}{{{labels}}} {value}" if labels else (
        f"{name}{sample.suffix} {value}"
    )


def render(registry: Registry) -> bytes:
    """The whole page that a scrape gets.

    >>> from wafermon.observe import Registry, family
    >>> registry = Registry()
    >>> registry.register(lambda: [family("hits_total", "counter", "Hits.", {'a"b': 3}, "source")])
    >>> print(render(registry).decode(), end="")
    # HELP hits_total Hits.
    # TYPE hits_total counter
    hits_total{source="a\\"b"} 3
    """
    lines: list[str] = []
    for found in registry.collect():
        lines += _family_lines(found)
    return "".join(line + "\n" for line in lines).encode("utf-8")


def _family_lines(found: Family) -> list[str]:
    return [
        f"# HELP {found.name} {_escape(found.about)}",
        f"# TYPE {found.name} {found.kind}",
        *(_line(found.name, sample) for sample in found.samples),
    ]
