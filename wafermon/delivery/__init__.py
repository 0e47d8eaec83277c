"""From a routed batch to a backend that has taken it: queues, retries, threads."""

from wafermon.delivery.backend import Backend
from wafermon.delivery.breaker import Breaker
from wafermon.delivery.dead_letters import DeadLetters
from wafermon.delivery.feeders import Crowd, Feeder, Feeders
from wafermon.delivery.journal import Journal
from wafermon.delivery.journaled_queue import JournaledQueue
from wafermon.delivery.pipeline import Observer, Pipeline
from wafermon.delivery.queue import BatchQueue
from wafermon.delivery.rate_limit import RateLimit
from wafermon.delivery.retry import Retry
from wafermon.delivery.route import Route
from wafermon.delivery.slots import Slots
from wafermon.delivery.tail import Tail, View

__all__ = [
    "Backend",
    "BatchQueue",
    "Breaker",
    "Crowd",
    "DeadLetters",
    "Feeder",
    "Feeders",
    "Journal",
    "JournaledQueue",
    "Observer",
    "Pipeline",
    "RateLimit",
    "Retry",
    "Route",
    "Slots",
    "Tail",
    "View",
]
