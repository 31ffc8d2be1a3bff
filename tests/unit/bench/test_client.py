"""The client against real sockets that send what a script says."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from hyprstream.bench.client import Endpoint, connect, get, json_object
from hyprstream.core.errors import BackendError, Invalid, Unavailable

SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@asynccontextmanager
async def sending(*pieces: bytes) -> AsyncGenerator[Endpoint]:
    """A server that answers the first request with these writes, and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])


async def test_a_stream_arrives_whole_when_every_byte_is_sent_alone() -> None:
    stream = SSE_HEAD + b"9\r\ndata: one\r\n2\r\n\n\n\r\nb\r\ndata: two\n\n\r\n0\r\n\r\n"
    async with sending(*(stream[i : i + 1] for i in range(len(stream)))) as endpoint:
        response = await get(endpoint, "/")
    assert [event.data for event in response.events] == [b"one", b"two"]
    assert response.sent_at <= response.events[0].at <= response.events[1].at <= response.ended_at


async def test_events_are_given_while_the_stream_goes_on() -> None:
    async with (
        sending(SSE_HEAD, b"c\r\ndata: early\n\r\n1\r\n\n\r\n", b"0\r\n\r\n") as endpoint,
        connect(endpoint) as connection,
    ):
        connection.send("GET", "/")
        assert [event.data async for event in connection.events()] == [b"early"]


async def test_an_answer_that_is_no_stream_is_kept_as_its_body() -> None:
    async with sending(b"HTTP/1.1 429 No\r\nContent-Length: 4\r\n\r\nfull") as endpoint:
        response = await get(endpoint, "/")
    assert (response.status, response.body, response.events) == (429, b"full", ())


async def test_a_server_that_hangs_up_in_the_middle_is_reported() -> None:
    async with sending(SSE_HEAD, b"5\r\nda") as endpoint:
        with pytest.raises(Unavailable, match="before its answer was complete"):
            await get(endpoint, "/")


async def test_something_that_does_not_speak_http_is_reported() -> None:
    async with sending(b"220 smtp ready\r\n\r\n") as endpoint:
        with pytest.raises(BackendError, match="not HTTP"):
            await get(endpoint, "/")


async def test_a_port_nobody_listens_on_is_reported() -> None:
    async with sending() as endpoint:
        pass
    with pytest.raises(Unavailable, match="cannot be reached"):
        await get(endpoint, "/")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("localhost:8080/v1/", "http://localhost:8080"),
        ("https://models.example/api/v1", "https://models.example:443/api"),
    ],
)
def test_a_url_may_end_as_openai_clients_write_it(url: str, shown: str) -> None:
    assert str(Endpoint.parse(url)) == shown


@pytest.mark.parametrize("url", ["ftp://example", "http://", "http://:80"])
def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="not an http URL"):
        Endpoint.parse(url)


@pytest.mark.parametrize("data", [b"[1]", b"{", b""])
def test_what_is_no_json_object_is_reported_with_the_text(data: bytes) -> None:
    with pytest.raises(BackendError, match="no JSON"):
        json_object(data)
