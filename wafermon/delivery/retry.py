"""How long to wait before trying again."""

from __future__ import annotations

import dataclasses
import random
from typing import Callable, Optional

#: A backend that asks for a longer wait than this is asked again after it.
MAX_ASKED_SECONDS = 3_600.0


@dataclasses.dataclass(frozen=True)
class Retry:
    """Exponential back-off with full jitter, without end unless told otherwise.

    Full jitter (a random share of the whole delay) keeps many hosts from coming back in step:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    Args:
        initial: bound of the first delay in seconds; it doubles with each failure,
        maximum: up to this one.
        give_up_after: seconds after which a batch that fails again and again is dropped; None
            never gives up.
        share: gives a random number from 0 to 1.

    >>> retry = Retry(initial=0.5, maximum=30.0, share=lambda: 1.0)
    >>> [retry.delay(failures) for failures in (1, 2, 3, 100)]
    [0.5, 1.0, 2.0, 30.0]
    >>> retry.delay(1, retry_after=70), retry.delay(1, retry_after=1e9)
    (70, 3600.0)
    """

    initial: float = 0.1
    maximum: float = 30.0
    give_up_after: Optional[float] = None
    share: Callable[[], float] = random.random

    def delay(self, failures: int, retry_after: Optional[float] = None) -> float:
        """Seconds to wait after so many failures in a row; not less than the backend asked, which
        `maximum` does not bound, but `MAX_ASKED_SECONDS`."""
        bound = min(self.maximum, self.initial * 2.0 ** min(failures - 1, 60))
        return max(bound * self.share(), min(retry_after or 0.0, MAX_ASKED_SECONDS))
