"""How much one principal may ask for. Knows subjects, counts and windows of a minute; knows no engine and no HTTP."""

import math
import sys
from collections import Counter
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from hyprstream.core.errors import RateLimited
from hyprstream.core.principal import Principal

_EPSILON = 1e-6
"""Seconds; what the arithmetic of seconds since 1970 loses."""


@dataclass(frozen=True, slots=True)
class LimitValues:
    """What every principal may ask for; None is no limit, and the least limit is 1."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Of prompts and answers. A request that was let in is never cut short; the next one waits."""
    concurrent: int | None = None
    """Requests under way at once, waiting or not."""
    queue_share: float | None = None
    """The part of the queue's places that one principal's requests may number; 1 and more is no limit."""


class Limits:
    """Counts by subject, in this process. `max_queue` is the number of requests that may wait for one model."""

    def __init__(self, values: LimitValues, *, max_queue: int) -> None:
        self._requests = _Window.of("requests_per_minute", values.requests_per_minute)
        self._tokens = _Window.of("tokens_per_minute", values.tokens_per_minute)
        self._most_open: dict[str, int] = {}
        if values.concurrent is not None:
            self._most_open["concurrent"] = values.concurrent
        if values.queue_share is not None and values.queue_share < 1:
            self._most_open["queue_share"] = max(1, math.ceil(values.queue_share * max_queue))
        self._n_open: Counter[str] = Counter()
        self._is_unlimited = not (self._requests or self._tokens or self._most_open)

    def admit(self, caller: Principal) -> AbstractContextManager[None]:
        """A block that is one request of `caller`.

        Raises:
            RateLimited: it has used up one of its limits; `retry_after` is when a request would be let in again, or 1 where
                that depends on when another one ends.
        """
        return nullcontext() if self._is_unlimited else self._admitted(caller.subject)

    def charge(self, caller: Principal, n_tokens: int) -> None:
        """Count tokens that were computed for `caller`."""
        if self._tokens is not None and n_tokens:
            self._tokens.add(caller.subject, n_tokens)

    @contextmanager
    def _admitted(self, subject: str) -> Generator[None]:
        for name, most in self._most_open.items():
            if self._n_open[subject] >= most:
                raise RateLimited(
                    f"{subject} has {most} requests under way, which is all it may have",
                    limit=name,
                )
        if self._tokens is not None:
            self._tokens.check(subject)
        if self._requests is not None:
            self._requests.check(subject)
            self._requests.add(subject, 1)
        self._n_open[subject] += 1
        try:
            yield
        finally:
            self._n_open[subject] -= 1
            if not self._n_open[subject]:
                del self._n_open[subject]


class _Window:
    """A sliding window of a minute: this minute's count, and of the last one's the part that still overlaps.

    Two integers a subject, which the storage forgets when two minutes have gone by.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._item = RateLimitItemPerMinute(most, namespace=name)
        self._storage = MemoryStorage()
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)

    @classmethod
    def of(cls, name: str, most: int | None) -> "_Window | None":
        """A window, if there is a limit."""
        return None if most is None else cls(name, most)

    def check(self, subject: str) -> None:
        """Raise RateLimited unless there is room for one more."""
        if not self._limiter.test(self._item, subject):
            raise RateLimited(
                f"{subject} has used up its {self._item.amount} {self._name.replace('_', ' ')}",
                limit=self._name,
                retry_after=self._retry_after(subject),
            )

    def add(self, subject: str, n: int) -> None:
        """Count `n` more."""
        # The limiter would not count what goes over the limit, and how long an answer is shows only after it.
        self._storage.acquire_sliding_window_entry(
            self._item.key_for(subject), sys.maxsize, self._item.get_expiry(), n
        )

    def _retry_after(self, subject: str) -> int:
        """Least whole number of seconds after which there is room for one, if nothing is added."""
        most, minute = self._item.amount, self._item.get_expiry()
        previous, _, current, kept = self._storage.get_sliding_window(
            self._item.key_for(subject), minute
        )
        rest = kept - minute  # of the running minute
        if current < most:
            seconds = rest - minute * (most - current) / previous
        else:
            seconds = rest + minute * (1 - most / current)
        return math.floor(seconds + _EPSILON) + 1
