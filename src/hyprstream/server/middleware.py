"""What surrounds every request, one small ASGI class each. Knows headers, bytes and counts; knows no use case."""

import asyncio
import re
import time
from collections.abc import Callable
from urllib.parse import quote
from uuid import uuid4

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hyprstream.core.errors import HyprstreamError, QueueFull, TooLarge
from hyprstream.server.errors import CLIENT_GONE, BodyTooSlow, UnsupportedEncoding, error_response

LINGER_SECONDS = 2.0
"""How long the rest of a refused body is read and thrown away, so that its sender lives to read the refusal."""

POLICY_VIOLATION = 1008
"""The status a WebSocket is closed with that may not be opened (RFC 6455, section 7.4.1)."""

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADER_NAMES = re.compile(r"[A-Za-z0-9_, -]{1,1000}")
_MAX_LOGGED_PATH = 200

_log = structlog.stdlib.get_logger(__name__)


class RequestId:
    """Gives every request an id, the client's own if it is a sane one, and every response its `x-request-id`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if _SANE_ID.fullmatch(sent) else f"req_{uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = _with_headers(message, (b"x-request-id", request_id.encode()))
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, send_with_id)


class AccessLog:
    """Writes a line per request: method, path, status, milliseconds, id. No query strings, bodies or keys.

    It is also where an exception that nobody foresaw ends: in the log, with its traceback.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, status, is_complete = time.perf_counter(), CLIENT_GONE, False

        async def watch(message: Message) -> None:
            nonlocal status, is_complete
            status = message.get("status", status)
            is_complete = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        log = _log.bind(
            method=scope["method"],
            path=quote(scope["path"])[:_MAX_LOGGED_PATH],
            request_id=scope["state"]["request_id"],
        )
        try:
            await self._app(scope, receive, watch)
        except Exception:
            log.exception("unforeseen error")
            if not is_complete:
                raise  # the HTTP server cuts the connection, so that half an answer cannot pass for a whole one
        finally:
            log.info("request", status=status, ms=round((time.perf_counter() - started) * 1e3, 2))


class Gate:
    """Lets a request pass if `check` returns; what it raises is the answer, and nothing behind the gate sees the request.

    A WebSocket is a request too, and one that any page may open: it is refused before it is accepted, which is a 403.
    """

    def __init__(self, app: ASGIApp, check: Callable[[Scope], None]) -> None:
        self._app = app
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            try:
                self._check(scope)
            except HyprstreamError as error:
                if scope["type"] == "websocket":
                    return await send({"type": "websocket.close", "code": POLICY_VIOLATION})
                return await error_response(error, scope)(scope, receive, send)
        await self._app(scope, receive, send)


class Cors:
    """Tells browsers that pages of the allowed origins may read the answers. Stands behind the gate that refuses others.

    Fetch standard, section 3.3. Credentials are never allowed: keys travel in a header the page sets itself.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        origin = headers.get("origin")
        if origin is None:
            return await self._app(scope, receive, send)
        allow_origin = (b"access-control-allow-origin", origin.encode("latin-1"))
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            return await _allow_preflight(headers, allow_origin, send)

        async def send_with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = _with_headers(
                    message,
                    allow_origin,
                    (b"access-control-expose-headers", b"retry-after, x-request-id"),
                    (b"vary", b"origin"),
                )
            await send(message)

        await self._app(scope, receive, send_with_cors)


async def _allow_preflight(headers: Headers, allow_origin: tuple[bytes, bytes], send: Send) -> None:
    names = headers.get("access-control-request-headers", "")
    if not _HEADER_NAMES.fullmatch(names):
        names = "authorization, content-type, x-api-key"
    allowed = [
        allow_origin,
        (b"access-control-allow-methods", b"GET, HEAD, POST"),
        (b"access-control-allow-headers", names.encode()),
        (b"access-control-max-age", b"600"),
        (b"vary", b"origin, access-control-request-headers"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": allowed})
    await send({"type": "http.response.body"})


class InFlightLimit:
    """Refuses a request to one of `paths` while `limit()` others are being answered, before a byte of its body is read.

    A request counts from the end of its body on: one that is still being sent holds nobody up.
    """

    def __init__(self, app: ASGIApp, *, paths: frozenset[str], limit: Callable[[], int]) -> None:
        self._app = app
        self._paths = paths
        self._limit = limit
        self._n_in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._paths:
            return await self._app(scope, receive, send)
        limit = self._limit()
        if self._n_in_flight >= limit:
            full = QueueFull(waiting=self._n_in_flight, limit=limit)
            return await error_response(full, scope)(scope, receive, send)
        is_counted = False

        async def receive_and_count() -> Message:
            nonlocal is_counted
            message = await receive()
            if not is_counted and not message.get("more_body", False):
                is_counted = True
                self._n_in_flight += 1
            return message

        try:
            await self._app(scope, receive_and_count, send)
        finally:
            self._n_in_flight -= is_counted


class BodyLimit:
    """Raises TooLarge or BodyTooSlow in whoever reads a body that is over `max_bytes` or takes over `seconds`."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        if any(name.lower() != "identity" for name in headers.getlist("content-encoding")):
            encoded = UnsupportedEncoding("compressed request bodies are not supported")
            return await error_response(encoded, scope)(scope, receive, send)
        body = _Body(receive, send, self._max_bytes, self._seconds)
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) <= self._max_bytes:
            await self._app(scope, body.receive, body.send)
        else:
            await error_response(body.refuse(), scope)(scope, body.receive, body.send)


class _Body:
    """One request's body while it is read, and the response while the body may have to be given up."""

    def __init__(self, receive: Receive, send: Send, max_bytes: int, seconds: float) -> None:
        self._receive = receive
        self._send = send
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._n_bytes = 0
        self._is_complete = False
        self._is_refused = False

    def refuse(self) -> TooLarge:
        self._is_refused = True
        return TooLarge(f"the request body is larger than {self._max_bytes} bytes")

    async def receive(self) -> Message:
        if self._is_complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self._is_refused = True
            raise BodyTooSlow(f"the body did not arrive within {self._seconds:g} s") from None
        self._n_bytes += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        if self._n_bytes > self._max_bytes:
            raise self.refuse()
        return message

    async def send(self, message: Message) -> None:
        if self._is_refused and message["type"] == "http.response.start":
            message = _with_headers(message, (b"connection", b"close"))
        elif self._is_refused and not message.get("more_body"):
            # Closing while the client still writes would reset the connection and take the answer with it.
            await self._send({**message, "more_body": True})
            await self._discard_rest()
            message = {"type": "http.response.body"}
        await self._send(message)

    async def _discard_rest(self) -> None:
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while (await self._receive()).get("more_body"):
                    pass
        except TimeoutError:
            return


def _with_headers(message: Message, *headers: tuple[bytes, bytes]) -> Message:
    return {**message, "headers": [*message.get("headers", ()), *headers]}
