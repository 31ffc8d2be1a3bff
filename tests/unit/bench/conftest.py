"""A server of a dozen lines that answers completions from a script: real sockets, no model."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from hyprstream.bench.client import Endpoint


@dataclass
class FakeServer:
    """Speaks as much HTTP/1.1 as the benchmark's client asks for."""

    n_tokens_reported: Callable[[int], int] = lambda asked: asked
    """`usage.completion_tokens` for the `max_tokens` that were asked for."""
    is_full: Callable[[int], bool] = lambda n_earlier: False
    """Whether to answer 429, given how many completions were asked for before."""
    piece: str = "a "
    requests: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    endpoint: Endpoint = field(default_factory=lambda: Endpoint("127.0.0.1", 0))

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            method, path, length = head
            body = json.loads(await reader.readexactly(length) or b"{}")
            if method == "GET":
                writer.write(_plain(200, {"data": [{"id": "fake"}], "status": "ok"}))
            elif self.is_full(len(self.requests)):
                self.requests.append(body)
                writer.write(_plain(429, {"error": {"message": "full"}}))
            else:
                self.requests.append(body)
                assert path == "/v1/completions"
                writer.write(self._stream(body))
            await writer.drain()
        writer.close()

    def _stream(self, body: dict[str, object]) -> bytes:
        n_tokens = int(str(body["max_tokens"]))
        chunks: list[object] = [{"choices": [{"text": self.piece}]} for _ in range(n_tokens)]
        prompt = body["prompt"]
        assert isinstance(prompt, list)
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": self.n_tokens_reported(n_tokens),
        }
        chunks.append({"choices": [], "usage": usage})
        events = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
        return (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events)
            + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
        )


async def _head(reader: asyncio.StreamReader) -> tuple[str, str, int] | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    request, *headers = head.split("\r\n")
    method, path, _ = request.split()
    fields = dict(line.lower().split(": ", 1) for line in headers if line)
    return method, path, int(fields["content-length"])


def _plain(status: int, value: object) -> bytes:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} Fine\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@asynccontextmanager
async def listening(server: FakeServer) -> AsyncIterator[FakeServer]:
    """The fake server on a free port."""
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await server.answer(reader, writer)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    server.endpoint = Endpoint("127.0.0.1", listener.sockets[0].getsockname()[1])
    async with listener:
        yield server
        await asyncio.gather(*tasks)


@pytest.fixture
def serve() -> Callable[[FakeServer], object]:
    return listening


@pytest.fixture
def fake_server() -> type[FakeServer]:
    return FakeServer
