"""A client that leaves ends its generation, wherever it is; what ends a stream early is said in the stream."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import orjson
import pytest

from support.fake_engine import FakeEngine
from support.front_door import HELLO, SOON, eventually, serving


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return "asyncio", {"use_uvloop": request.param}


@asynccontextmanager
async def asking(url: str, **fields: object) -> AsyncGenerator[asyncio.StreamReader]:
    """A connection over which a chat was asked for; leaving the block hangs up."""
    body = orjson.dumps(HELLO | fields)
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    async with connected(url, request) as reader:
        yield reader


@asynccontextmanager
async def connected(url: str, request: bytes = b"") -> AsyncGenerator[asyncio.StreamReader]:
    """A connection over which these bytes were sent."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    try:
        yield reader
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("stream", [True, False])
async def test_hanging_up_while_the_engine_works_ends_the_generation(stream):
    engine = FakeEngine("a", "b", stalls_at=1)
    async with serving(engine) as url:
        async with asking(url, stream=stream):
            await asyncio.wait_for(engine.entered.wait(), SOON)
            assert engine.n_open == 1
        await asyncio.wait_for(engine.left.wait(), SOON)
    assert engine.n_open == 0


async def test_hanging_up_in_mid_stream_ends_the_generation():
    engine = FakeEngine("a", "b", stalls_at=1)
    async with serving(engine) as url:
        async with asking(url, stream=True) as reader:
            await asyncio.wait_for(reader.readuntil(b'"content":"a"'), SOON)
        await asyncio.wait_for(engine.left.wait(), SOON)


async def test_hanging_up_while_the_server_is_blocked_in_a_send_ends_the_generation():
    engine = FakeEngine(*["x" * 10_000] * 10_000)
    async with serving(engine) as url:
        async with asking(url, stream=True) as reader:
            await asyncio.wait_for(reader.readuntil(b'"content":"x'), SOON)
            # Nobody reads any more: 100 MB do not fit into the buffers on the way.
            assert not engine.left.is_set()
        await asyncio.wait_for(engine.left.wait(), SOON)


async def test_other_streams_do_not_notice_one_that_is_left():
    engine = FakeEngine("a", "b", stalls_at=1)
    async with serving(engine) as url, asking(url, stream=True) as stays:
        async with asking(url, stream=True):
            await eventually(lambda: engine.n_open == 2)
        await eventually(lambda: engine.n_open == 1)
        engine.release.set()
        await asyncio.wait_for(stays.readuntil(b"data: [DONE]\n\n"), SOON)


async def test_a_quiet_stream_carries_comments():
    engine = FakeEngine("a", "b", stalls_at=1)
    async with serving(engine, ping_seconds=0.01) as url, asking(url, stream=True) as reader:
        await asyncio.wait_for(reader.readuntil(b": ping\n\n"), SOON)
        engine.release.set()
        await asyncio.wait_for(reader.readuntil(b"data: [DONE]\n\n"), SOON)


async def test_a_server_that_stops_lets_a_running_answer_end():
    engine = FakeEngine("a", "b", stalls_at=1)

    async def release_once_closed(idle: asyncio.StreamReader) -> None:
        await idle.read()
        engine.release.set()

    async with AsyncExitStack() as stack:
        async with serving(engine, grace_seconds=SOON) as url:
            idle = await stack.enter_async_context(connected(url))
            reader = await stack.enter_async_context(asking(url, stream=True))
            await asyncio.wait_for(reader.readuntil(b'"content":"a"'), SOON)
            releasing = asyncio.create_task(release_once_closed(idle))
        rest = await asyncio.wait_for(reader.read(), SOON)
        await releasing
    assert b'"content":"b"' in rest
    assert b"data: [DONE]" in rest


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_outlasts_the_grace_period_is_cut_off_and_told_why(stream):
    engine = FakeEngine("a", "b", stalls_at=1)
    async with AsyncExitStack() as stack:
        async with serving(engine, grace_seconds=0.05) as url:
            reader = await stack.enter_async_context(asking(url, stream=stream))
            await asyncio.wait_for(engine.entered.wait(), SOON)
        answer = await asyncio.wait_for(reader.read(), SOON)
    assert answer.startswith(b"HTTP/1.1 200 OK" if stream else b"HTTP/1.1 503 Service Unavailable")
    assert b'"type":"unavailable_error"' in answer
    assert engine.n_open == 0
