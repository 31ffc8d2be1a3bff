"""Listening and stopping, in a process of its own where a signal is involved."""

import asyncio
import signal
import sys

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from hyprstream.server.run import Server
from support.front_door import SOON

PROGRAM = """
import asyncio, sys
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from hyprstream.server.run import run, serve

async def hello(request):
    return PlainTextResponse("hello")

async def endless(request):
    async def body():
        yield b"started"
        await asyncio.Event().wait()
    return StreamingResponse(body())

app = Starlette(routes=[Route("/", hello), Route("/endless", endless)])
run(serve(app, "127.0.0.1", 0, grace_seconds=float(sys.argv[1]), on_started=lambda url: print(url, flush=True)))
print("stopped", flush=True)
"""


async def started(grace_seconds: float) -> tuple[asyncio.subprocess.Process, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        str(grace_seconds),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, (await asyncio.wait_for(process.stdout.readline(), SOON)).decode().strip()


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, bytes]:
    out, _ = await asyncio.wait_for(process.communicate(), SOON)
    return process.returncode, out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_server_in_good_order(number):
    process, url = await started(grace_seconds=60)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        assert (await client.get("/")).text == "hello"
        process.send_signal(number)
        assert await ended(process) == (0, b"stopped\n")


async def test_a_second_signal_does_not_wait_for_running_answers():
    process, url = await started(grace_seconds=3600)
    host, port = url.removeprefix("http://").split(":")
    idle, idle_writer = await asyncio.open_connection(host, int(port))
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"started"), SOON)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(idle.read(), SOON) == b"", "the first signal closes what is idle"
    process.send_signal(signal.SIGTERM)
    assert await ended(process) == (0, b"stopped\n")
    for each in (writer, idle_writer):
        each.close()
        await each.wait_closed()


async def test_an_address_in_use_is_an_error_and_not_an_exit():
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("a"))])
    first = Server(app, "127.0.0.1", 0, grace_seconds=1)
    async with first.running():
        port = int(first.url.rsplit(":", 1)[1])
        with pytest.raises(OSError, match="in use"):
            Server(app, "127.0.0.1", port, grace_seconds=1)
