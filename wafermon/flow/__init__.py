"""What happens to messages between the wire and the backends, without I/O or threads."""

from wafermon.flow.alerts import Alerts
from wafermon.flow.correlator import Correlator
from wafermon.flow.job_state import JobState
from wafermon.flow.jobs import JobTracker
from wafermon.flow.presence import Expected, Presence
from wafermon.flow.recent_errors import RecentErrors
from wafermon.flow.redact import Redactor
from wafermon.flow.router import Router
from wafermon.flow.rule import Rule
from wafermon.flow.selection import Selection, parse_time
from wafermon.flow.service_graph import ServiceGraph
from wafermon.flow.source import SourceState
from wafermon.flow.trace import Node, Span, Trace, assemble
from wafermon.flow.user_metrics import UserMetrics

__all__ = [
    "Alerts",
    "Correlator",
    "Expected",
    "JobState",
    "JobTracker",
    "Node",
    "Presence",
    "RecentErrors",
    "Redactor",
    "Router",
    "Rule",
    "Selection",
    "ServiceGraph",
    "SourceState",
    "Span",
    "Trace",
    "UserMetrics",
    "assemble",
    "parse_time",
]
