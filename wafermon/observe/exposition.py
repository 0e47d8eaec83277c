"""The text formats of Prometheus, 0.0.4 and OpenMetrics 1.0, as functions of a registry.

Sources: https://github.com/prometheus/docs, exposition_formats.md and content_negotiation.md;
https://github.com/prometheus/OpenMetrics, specification/OpenMetrics.md.
"""

from __future__ import annotations

import itertools

from wafermon.observe.metrics import Buckets, Family, Registry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_SPECIAL = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}


def exposition(registry: Registry, accept: str = "") -> tuple[bytes, str]:
    """The page that a scrape gets, and its content type.

    Args:
        registry: what is exposed.
        accept: the header of that name; OpenMetrics is given to who likes it no less than text.

    Raises:
        ValueError: as `Registry.collect`.

    >>> exposition(Registry(), "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    (b'# EOF\\n', 'application/openmetrics-text; version=1.0.0; charset=utf-8')
    >>> exposition(Registry(), "*/*")[1]
    'text/plain; version=0.0.4; charset=utf-8'
    """
    if _wants_openmetrics(accept):
        return render_openmetrics(registry), OPENMETRICS_TYPE
    return render(registry), CONTENT_TYPE


def render(registry: Registry) -> bytes:
    """The whole page in the text format 0.0.4.

    >>> from wafermon.observe import Registry, family
    >>> registry = Registry()
    >>> registry.register(lambda: [family("hits_total", "counter", "Hits.", {'a"b': 3}, "source")])
    >>> print(render(registry).decode(), end="")
    # HELP hits_total Hits.
    # TYPE hits_total counter
    hits_total{source="a\\"b"} 3
    """
    lines: list[str] = []
    pairs = _Pairs()
    for found in registry.collect():
        lines.append(f"# HELP {found.name} {_escape(found.about)}")
        lines += _lines(found, found.name, pairs)
    return "\n".join([*lines, ""]).encode("utf-8")


def render_openmetrics(registry: Registry) -> bytes:
    """The whole page in OpenMetrics 1.0: there the family of a counter is named without `_total`,
    help escapes quotes, too, and the page says where it ends.

    >>> from wafermon.observe import Registry, family
    >>> registry = Registry()
    >>> registry.register(lambda: [family("hits_total", "counter", "Hits.", {"": 3})])
    >>> print(render_openmetrics(registry).decode(), end="")
    # HELP hits Hits.
    # TYPE hits counter
    hits_total 3
    # EOF
    """
    lines: list[str] = []
    pairs = _Pairs()
    for found in registry.collect():
        name = found.name[: -len("_total")] if found.kind == "counter" else found.name
        lines.append(f"# HELP {name} {_quoted(found.about)}")
        lines += _lines(found, name, pairs)
    lines.append("# EOF")
    return "\n".join([*lines, ""]).encode("utf-8")


class _Pairs(dict[tuple[str, str], str]):
    """Labels with their values as they are written: most stand on many lines of a page."""

    def __missing__(self, pair: tuple[str, str]) -> str:
        text = self[pair] = f'{pair[0]}="{_quoted(pair[1])}"'
        return text


def _lines(found: Family, name: str, pairs: _Pairs) -> list[str]:
    """The type of a family and its samples."""
    lines = [f"# TYPE {name} {found.kind}"]
    for suffix, labels, value in found.samples:
        text = repr(value)
        if text in _SPECIAL:
            text = _SPECIAL[text]
        inner = f"{{{','.join([pairs[pair] for pair in labels])}}}" if labels else ""
        lines.append(f"{found.name}{suffix}{inner} {text}")
    for buckets in found.buckets:
        lines += _histogram(found.name, buckets, pairs)
    return lines


def _histogram(name: str, buckets: Buckets, pairs: _Pairs) -> list[str]:
    """The lines of one histogram. They are most of a page, so each is one step."""
    inner = ",".join([pairs[pair] for pair in buckets.labels])
    totals = list(itertools.accumulate(buckets.counts))
    begin, braced = f"{name}_bucket{{{inner}{',' if inner else ''}", f"{{{inner}}}" if inner else ""
    return [
        *[f'{begin}le="{edge}"}} {count}' for edge, count in zip(buckets.edges, totals)],
        f"{name}_sum{braced} {buckets.total!r}",
        f"{name}_count{braced} {totals[-1]}",
    ]


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escape(text).replace('"', r"\"")


def _wants_openmetrics(accept: str) -> bool:
    """Whether a client takes OpenMetrics 1.0, and likes it no less than plain text."""
    liked = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for choice in accept.lower().split(","):
        media, *parameters = [part.strip() for part in choice.split(";")]
        given = dict(part.partition("=")[::2] for part in parameters)
        if media in liked and given.get("version", "1.0.0") in ("1.0.0", "0.0.4"):
            liked[media] = max(liked[media], _quality(given.get("q", "1")))
    wanted, plain = liked.values()
    return wanted > 0 and wanted >= plain


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
