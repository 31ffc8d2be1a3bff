"""Streams that run at the same time, and what they add up to. Knows one server at a time; knows no rounds or peers."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise

from hyprstream.bench.client import Connection, connect
from hyprstream.bench.completions import PATH, Answer, answer, carries_text, request_body
from hyprstream.bench.servers import Target
from hyprstream.core.errors import BackendError, HyprstreamError


@dataclass(frozen=True, slots=True)
class Visit:
    """Streams that were sent to one server together. Times are in seconds, rates per second."""

    answers: tuple[Answer, ...]

    @property
    def seconds(self) -> float:
        """From the first request's first byte to the last token."""
        return max(a.times[-1] for a in self.answers) - min(a.sent_at for a in self.answers)

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens of all streams over the whole time, prefill included."""
        return sum(a.n_tokens for a in self.answers) / self.seconds

    @property
    def requests_per_second(self) -> float:
        return len(self.answers) / self.seconds

    @property
    def steady_tokens_per_second(self) -> float | None:
        """Completion tokens while every stream was decoding; None if there was no such time."""
        start = max(a.times[0] for a in self.answers)
        end = min(a.times[-1] for a in self.answers)
        if end <= start:
            return None
        n_tokens = sum(
            a.tokens_per_event * sum(start < at <= end for at in a.times) for a in self.answers
        )
        return n_tokens / (end - start)

    @property
    def ttfts(self) -> list[float]:
        return [a.ttft for a in self.answers]

    @property
    def gaps(self) -> list[float]:
        return [gap for a in self.answers for gap in a.gaps]

    @property
    def token_counts(self) -> list[tuple[int, int]]:
        """Prompt and completion tokens of each stream."""
        return [(a.n_prompt_tokens, a.n_tokens) for a in self.answers]


async def visit(target: Target, prompts: Sequence[list[int]], *, n_tokens: int) -> Visit:
    """One stream per prompt, each on a connection of its own that is open before the clock starts.

    Raises:
        BackendError: an answer is not what was asked for.
        Unavailable: the server cannot be reached or hung up.
    """
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connect(target.endpoint)) for _ in prompts]
        for connection, prompt in zip(connections, prompts, strict=True):
            connection.send("POST", PATH, request_body(target.model, prompt, n_tokens=n_tokens))
        responses = await asyncio.gather(*(connection.response() for connection in connections))
    return Visit(tuple(answer(response) for response in responses))


class OpenStream:
    """A stream that goes on until its block is left. Made by `open_stream`."""

    def __init__(self, connection: Connection) -> None:
        self.times: list[float] = []
        """When each event that carried text arrived (`perf_counter` seconds)."""
        self._connection = connection
        self._has_news = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def reach(self, n_events: int) -> None:
        """Return once this many events carried text.

        Raises:
            BackendError: the stream ended before.
        """
        while len(self.times) < n_events:
            if self._reader.done():
                await self._reader
                raise BackendError(
                    f"a stream ended after {len(self.times)} events, {n_events} were needed",
                    hint="a larger context window per slot (--ctx) lets it go on for longer",
                )
            self._has_news.clear()
            await self._has_news.wait()

    def gaps_overlapping(self, start: float, end: float) -> list[float]:
        """Seconds between one text and the next, of every such pause that touches the time from start to end."""
        pauses = pairwise(self.times)
        return [later - earlier for earlier, later in pauses if later > start and earlier < end]

    async def leave(self) -> None:
        """Hang up in the middle, without a word."""
        self._connection.abort()
        self._reader.cancel()
        with suppress(asyncio.CancelledError, HyprstreamError):
            await self._reader

    async def _read(self) -> None:
        try:
            async with aclosing(self._connection.events()) as events:
                async for event in events:
                    if carries_text(event):
                        self.times.append(event.at)
                        self._has_news.set()
        finally:
            self._has_news.set()


@asynccontextmanager
async def open_stream(
    target: Target, prompt: list[int], *, n_tokens: int
) -> AsyncGenerator[OpenStream]:
    """Send a request and read its answer in the background; leaving the block hangs up."""
    async with connect(target.endpoint) as connection:
        connection.send("POST", PATH, request_body(target.model, prompt, n_tokens=n_tokens))
        stream = OpenStream(connection)
        try:
            yield stream
        finally:
            await stream.leave()
