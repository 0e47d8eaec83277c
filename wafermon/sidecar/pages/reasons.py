"""What the reasons of drops mean, and what helps, for who reads them on a page."""

from __future__ import annotations

from wafermon.delivery import account
from wafermon.flow import router
from wafermon.message import Reason

MEANINGS = {
    Reason.OVERSIZE.value: "a frame of more than 65,536 bytes",
    Reason.INVALID_JSON.value: "a line that is no JSON",
    Reason.NOT_OBJECT.value: "a line that is JSON, but no object",
    Reason.BAD_VERSION.value: "a frame whose v is not 1",
    Reason.BAD_FIELD.value: "a field that is missing or of the wrong kind",
    Reason.UNKNOWN_TYPE.value: "a type that nobody knows",
    Reason.TRUNCATED.value: "a frame that was cut off by the end of its connection",
    account.RATE_LIMITED: "its source sent more than sidecar.rate_limit allows",
    router.NO_ROUTE: "the routing says nothing of its source",
    router.FILTERED: "no rule of the routing wants it",
    router.SAMPLED: "the routing keeps only a sample",
    account.QUEUE_FULL: "the queue was full, and its policy drops: give it more room or time",
    account.SAMPLED_FULL: "the queue was full, and its policy keeps only a sample",
    account.SHUTDOWN: "the sidecar was stopped before the backend had taken it",
    account.GAVE_UP: "the backend did not take it within retry.give_up_after",
    account.REFUSED: "the backend refused it for good; see wafermon dead-letters",
    account.JOURNAL_FULL: "the journal was full, and its policy drops the oldest",
    account.REROUTED: "the routing had changed when it was read back from the journal",
    account.JOURNAL_DAMAGED: "its row in the journal was damaged on disk",
    account.INTERNAL_ERROR: "a fault of the sidecar itself; its log says more",
    "lost": "the configuration lost the backend before it had taken it",
    "given_up": "its backend did not come back before the journal was half full",
}
