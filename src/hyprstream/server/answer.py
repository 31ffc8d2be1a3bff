"""Runs one generation and sends it, whole or as it comes. Knows lifetimes and failures; the dialect is the encoder's."""

import asyncio
import contextlib
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hyprstream.core.chat import ChatEvent, ChatStream
from hyprstream.core.errors import HyprstreamError, Unavailable
from hyprstream.server.errors import error_body, json_response, request_id
from hyprstream.server.lifetime import ClientGone, lifetime
from hyprstream.server.options import ServerOptions
from hyprstream.server.sse import EventStream

_log = structlog.stdlib.get_logger(__name__)


class Encoder(Protocol):
    """A dialect's way to write events down, as values that JSON can hold."""

    def opening(self) -> Sequence[object]:
        """What a stream begins with."""
        ...

    def chunk(self, event: ChatEvent) -> object | None:
        """What a stream says of an event; None if the dialect is silent about it."""
        ...

    def whole(self, events: Sequence[ChatEvent]) -> object:
        """The body that says all of it at once."""
        ...


class Answer(Response):
    """A response that is generated while it is sent.

    The generation is queued before the head is sent: what is refused gets its own HTTP status, and only what fails later
    becomes an event of the stream.
    """

    def __init__(
        self,
        generation: AbstractAsyncContextManager[ChatStream],
        encoder: Encoder,
        *,
        is_streamed: bool,
        options: ServerOptions,
    ) -> None:
        super().__init__()
        self._generation = generation
        self._encoder = encoder
        self._is_streamed = is_streamed
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = EventStream(
            send,
            ping_seconds=self._options.ping_seconds,
            send_seconds=self._options.send_seconds,
        )
        try:
            whole = await self._run(receive, stream)
        except ClientGone:
            return
        except asyncio.CancelledError:
            # Only a server that stops cancels a request. Its client is told so instead of being cut off.
            await _fail(stream, Unavailable("the server is shutting down"), scope)
        except Exception as error:
            await _fail(stream, error, scope)
        else:
            if whole is not None:
                await json_response(whole)(scope, receive, send)

    async def _run(self, receive: Receive, stream: EventStream) -> object | None:
        async with lifetime(receive, self._options.generation_timeout), self._generation as events:
            if not self._is_streamed:
                return self._encoder.whole([event async for event in events])
            await stream.open(self._encoder.opening())
            async with stream.kept_alive():
                async for event in events:
                    if (chunk := self._encoder.chunk(event)) is not None:
                        await stream.write(chunk)
        await stream.close()
        return None


async def _fail(stream: EventStream, error: Exception, scope: Scope) -> None:
    if not stream.is_open:
        raise error
    known = isinstance(error, HyprstreamError)
    _log.warning(
        "stream failed",
        request_id=request_id(scope),
        error=type(error).__name__,
        exc_info=None if known else error,
    )
    with contextlib.suppress(ClientGone):
        await stream.fail(error_body(error, scope))
