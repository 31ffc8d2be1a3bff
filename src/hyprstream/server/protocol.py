"""HTTP/1.1 on a socket, with bounds that uvicorn's httptools protocol lacks: on the size and the time of a request's head.

What is not HTTP, or not for an origin server, is answered in the same shape as every other error.
"""

import asyncio
from http import HTTPStatus
from uuid import uuid4

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hyprstream.server.peer import STATE, Connection

MAX_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 30.0


class _BadHead(Exception):
    """Raised inside the parser, which gives the request up."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """Ends a connection whose request head is larger than 64 KiB or takes longer than 30 seconds."""

    _n_head_bytes = 0
    _refusal = HTTPStatus.BAD_REQUEST
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._connection = Connection(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_timer is None:
            return
        self._n_head_bytes += len(data)
        if self._n_head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope.setdefault("state", {})[STATE] = self._connection
        self._n_head_bytes = 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        # A head that came in one piece is complete before its bytes were counted above.
        n_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if n_bytes > MAX_HEAD_BYTES:
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise _BadHead
        if not self.url.startswith((b"/", b"*")):
            raise _BadHead  # the absolute form is for proxies, and names a second host
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser gave up and close the connection."""
        status = self._refusal
        error = {
            "message": f"this is not a request that can be read: {status.phrase.lower()}",
            "type": "invalid_request_error",
            "param": None,
            "code": status.phrase.lower().replace(" ", "_"),
        }
        body = orjson.dumps({"error": error})
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: req_{uuid4().hex}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
