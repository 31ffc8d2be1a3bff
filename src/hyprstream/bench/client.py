"""A client light enough to share the cores with the server it measures: one socket, HTTP/1.1, SSE, time stamps.

Knows the wire; JSON is parsed after a stream has ended, so that nothing but bytes is handled while the clock runs.
Knows no scenarios and no statistics.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools
import orjson

from hyprstream.bench.sse import SseParser
from hyprstream.core.errors import BackendError, Invalid, Unavailable

READ_SIZE = 65_536
TIMEOUT_SECONDS = 600.0
"""Longest silence of a server before a request counts as lost."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens."""

    host: str
    port: int
    is_tls: bool = False
    prefix: str = ""
    """Path in front of `/v1/...`."""
    api_key: str | None = None

    @classmethod
    def parse(cls, url: str, *, api_key: str | None = None) -> "Endpoint":
        """`http://host:port[/prefix]`; a trailing `/v1`, as OpenAI clients want it, is taken off.

        Raises:
            Invalid: not an http or https URL.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Invalid(f"{url!r} is not an http URL", param="url")
        is_tls = parts.scheme == "https"
        port = parts.port or (443 if is_tls else 80)
        prefix = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
        return cls(parts.hostname, port, is_tls, prefix, api_key)

    def __str__(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{self.host}:{self.port}{self.prefix}"


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event, and when the read that completed it returned (seconds, `perf_counter`)."""

    at: float
    data: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. Times are `perf_counter` seconds."""

    status: int
    body: bytes
    """Empty if the answer was an event stream."""
    events: tuple[Event, ...]
    sent_at: float
    ended_at: float

    @property
    def seconds(self) -> float:
        """From the request's first byte to the answer's last."""
        return self.ended_at - self.sent_at


class Connection:
    """One socket to a server, one exchange at a time. Made by `connect`."""

    def __init__(
        self, endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._endpoint = endpoint
        self._reader = reader
        self._writer = writer
        self._exchange: _Exchange | None = None

    def send(self, method: str, path: str, body: Mapping[str, object] | None = None) -> None:
        """Send a request now; nothing is awaited, as a request is far smaller than a socket's buffer."""
        request = _request(self._endpoint, method, path, body)
        self._exchange = _Exchange(time.perf_counter())
        self._writer.write(request)

    async def events(self) -> AsyncGenerator[Event]:
        """The answer's events as they come; whoever stops iterating can still `abort`."""
        exchange = self._sent()
        n_seen = 0
        while not exchange.is_complete:
            await self._read(exchange)
            fresh = exchange.events[n_seen:]
            n_seen += len(fresh)
            for event in fresh:
                yield event

    async def response(self) -> Response:
        """The whole answer.

        Raises:
            Unavailable: the server closed the connection, or was silent for too long.
        """
        exchange = self._sent()
        while not exchange.is_complete:
            await self._read(exchange)
        return exchange.response()

    async def request(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> Response:
        """`send`, then the whole answer."""
        self.send(method, path, body)
        return await self.response()

    def abort(self) -> None:
        """Leave at once, as a client that crashed would: what is unread is thrown away and the peer is told."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Leave politely."""
        self._writer.close()
        # Gone already is what was wanted.
        with suppress(OSError):
            await self._writer.wait_closed()

    def _sent(self) -> "_Exchange":
        assert self._exchange is not None, "a request is sent before its answer is read"
        return self._exchange

    async def _read(self, exchange: "_Exchange") -> None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                data = await self._reader.read(READ_SIZE)
        except TimeoutError:
            message = f"{self._endpoint} was silent for {TIMEOUT_SECONDS:g} s"
            raise Unavailable(message) from None
        except OSError as error:
            raise Unavailable(f"{self._endpoint} hung up: {error}") from None
        if not data:
            raise Unavailable(
                f"{self._endpoint} closed the connection before its answer was complete"
            )
        exchange.feed(data, time.perf_counter())


@asynccontextmanager
async def connect(endpoint: Endpoint) -> AsyncGenerator[Connection]:
    """A fresh connection, closed when the block is left.

    Raises:
        Unavailable: nobody listens there.
    """
    try:
        reader, writer = await asyncio.open_connection(
            endpoint.host, endpoint.port, ssl=endpoint.is_tls or None
        )
    except OSError as error:
        raise Unavailable(f"{endpoint} cannot be reached: {error}") from None
    connection = Connection(endpoint, reader, writer)
    try:
        yield connection
    finally:
        await connection.close()


async def get(endpoint: Endpoint, path: str) -> Response:
    """One `GET` over a connection of its own.

    Raises:
        Unavailable: nobody listens there, or hung up.
    """
    async with connect(endpoint) as connection:
        return await connection.request("GET", path)


class _Exchange:
    """One answer while it is read. The upper half is what httptools calls back."""

    def __init__(self, sent_at: float) -> None:
        self.is_complete = False
        self.events: list[Event] = []
        self._parser = httptools.HttpResponseParser(self)
        self._sse = SseParser()
        self._is_stream = False
        self._body = bytearray()
        self._sent_at = sent_at
        self._now = 0.0

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._is_stream = value.startswith(b"text/event-stream")

    def on_body(self, body: bytes) -> None:
        if self._is_stream:
            self.events.extend(Event(self._now, payload) for payload in self._sse.feed(body))
        else:
            self._body += body

    def on_message_complete(self) -> None:
        self.is_complete = True

    def feed(self, data: bytes, now: float) -> None:
        self._now = now
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise BackendError(f"the answer is not HTTP/1.1: {error}") from None

    def response(self) -> Response:
        status = self._parser.get_status_code()
        return Response(
            status, bytes(self._body), tuple(self.events), self._sent_at, ended_at=self._now
        )


def _request(
    endpoint: Endpoint, method: str, path: str, body: Mapping[str, object] | None
) -> bytes:
    content = b"" if body is None else orjson.dumps(body)
    lines = [
        f"{method} {endpoint.prefix}{path} HTTP/1.1",
        f"Host: {endpoint.host}:{endpoint.port}",
        f"Content-Length: {len(content)}",
        "Content-Type: application/json",
    ]
    if endpoint.api_key is not None:
        lines.append(f"Authorization: Bearer {endpoint.api_key}")
    return "\r\n".join([*lines, "", ""]).encode() + content


def json_object(data: bytes) -> dict[str, object]:
    """A JSON object a server sent.

    Raises:
        BackendError: it is something else.
    """
    try:
        value: object = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BackendError(f"the server sent no JSON: {error}: {data[:200]!r}") from None
    if not isinstance(value, dict):
        raise BackendError(f"the server sent no JSON object: {data[:200]!r}")
    return cast(dict[str, object], value)
