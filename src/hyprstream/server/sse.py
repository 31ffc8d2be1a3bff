"""Server-sent events over ASGI. Knows framing and keeping a quiet stream alive; knows nothing of what is sent.

The format is that of the HTML standard, section 9.2: `data:` lines, a blank line after each event, `:` starts a comment.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

import orjson
from starlette.types import Send

from hyprstream.server.lifetime import ClientGone

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
"""OpenAI's end of a stream in which nothing failed."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would otherwise collect the events
]


def frame(value: object) -> bytes:
    """One event with a JSON payload."""
    return b"data: %b\n\n" % orjson.dumps(value)


class EventStream:
    """The one response body of a request, sent event by event.

    What is written within one turn of the event loop leaves in one system call: the transport gathers it.
    """

    def __init__(self, send: Send, *, ping_seconds: float, send_seconds: float) -> None:
        self._send = send
        self._ping_seconds = ping_seconds
        self._send_seconds = send_seconds
        self._now = asyncio.get_running_loop().time
        self._written_at = self._now()
        self.is_open = False

    async def open(self, values: Iterable[object]) -> None:
        """Send the head and the first events. From here on an error can only be an event."""
        self.is_open = True
        await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await self._write(b"".join(map(frame, values)))

    async def write(self, value: object) -> None:
        """Send one event; waits while the client reads too slowly.

        Raises:
            ClientGone: the client has read nothing for `send_seconds`.
        """
        await self._write(frame(value))

    async def close(self) -> None:
        """End a stream in which nothing failed."""
        await self._write(DONE, is_last=True)

    async def fail(self, value: object) -> None:
        """Send a last event that tells of a failure."""
        await self._write(frame(value), is_last=True)

    @asynccontextmanager
    async def kept_alive(self) -> AsyncGenerator[None]:
        """A block during which a comment is sent whenever nothing else was for `ping_seconds`."""
        pings = asyncio.create_task(self._ping_when_quiet())
        try:
            yield
        finally:
            pings.cancel()

    async def _write(self, frames: bytes, *, is_last: bool = False) -> None:
        self._written_at = self._now()
        # The transport's buffer is bounded: a send that waits is one whose client does not read.
        try:
            async with asyncio.timeout(self._send_seconds):
                await self._send(
                    {"type": "http.response.body", "body": frames, "more_body": not is_last}
                )
        except TimeoutError:
            raise ClientGone from None

    async def _ping_when_quiet(self) -> None:
        while True:
            quiet = self._now() - self._written_at
            if quiet >= self._ping_seconds:
                await self._write(PING)
            else:
                await asyncio.sleep(self._ping_seconds - quiet)
