"""What happens to messages between the wire and the backends, without I/O or threads."""

from wafermon.flow.correlator import Correlator, Node, Span, Trace
from wafermon.flow.redact import Redactor
from wafermon.flow.router import Router, Rule
from wafermon.flow.selection import Selection, parse_time

__all__ = [
    "Correlator",
    "Node",
    "Redactor",
    "Router",
    "Rule",
    "Selection",
    "Span",
    "Trace",
    "parse_time",
]
