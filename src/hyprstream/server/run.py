"""Listens and stops. Knows uvicorn, sockets, TLS and signals; knows nothing of what is served."""

import asyncio
import signal
import socket
import ssl
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import uvicorn
import uvloop
from starlette.types import ASGIApp

from hyprstream.server.protocol import BoundedHttpProtocol
from hyprstream.server.tls import tls_context

KEEP_ALIVE_SECONDS = 75
BACKLOG = 1024
LAST_WORDS_SECONDS = 1.0
"""How long requests that were cut off have to tell their clients."""

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def serve(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    grace_seconds: float,
    on_started: Callable[[str], None],
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    tls_client_ca: Path | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then give running answers `grace_seconds`; a second signal cuts them off at once.

    Args:
        port: 0 takes a free one.
        on_started: called with the URL once connections are accepted.
        tls_cert, tls_key, tls_client_ca: PEM files, as for `tls_context`; without them the server speaks plain HTTP.

    Raises:
        OSError: the address cannot be bound.
        Invalid: one of the files cannot be used.
    """
    tls = tls_context(tls_cert, tls_key, tls_client_ca)
    server = Server(app, host, port, grace_seconds=grace_seconds, tls=tls)
    with _on_stop_signal(server.stop):
        async with server.running():
            on_started(server.url)
            await server.wait_until_stopped()


class Server:
    """One listening socket and everything that is accepted from it."""

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        grace_seconds: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._listener = _bind(host, port)
        self.url = _url(self._listener, "http" if tls is None else "https")
        self._stopping = asyncio.Event()
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                app,
                http=BoundedHttpProtocol,
                ws="none",
                lifespan="on",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=grace_seconds,  # pyright: ignore[reportArgumentType]
                ssl_context_factory=None if tls is None else _always(tls),
            )
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """A block during which requests are served. Leaving it waits for them, the grace period at most."""
        serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._listener]))
        try:
            await self._uvicorn.wait_until_listening(serving)
            yield
        finally:
            self._uvicorn.should_exit = True
            await serving
            if tasks := self._uvicorn.server_state.tasks:
                await asyncio.wait(tasks, timeout=LAST_WORDS_SECONDS)

    async def wait_until_stopped(self) -> None:
        """Until somebody calls `stop`."""
        await self._stopping.wait()

    def stop(self) -> None:
        """Accept no more and end what runs within the grace period; called again, end it at once."""
        if self._stopping.is_set():
            self._uvicorn.cut_off()
        self._stopping.set()


class _Uvicorn(uvicorn.Server):
    """uvicorn, which leaves signals to us and tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening.set()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def wait_until_listening(self, serving: asyncio.Task[None]) -> None:
        listening = asyncio.create_task(self._listening.wait())
        await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if serving.done():
            serving.result()

    def cut_off(self) -> None:
        self.force_exit = True
        for task in self.server_state.tasks:
            task.cancel()


@contextmanager
def _on_stop_signal(stop: Callable[[], None]) -> Generator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    loop = asyncio.get_running_loop()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop)

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _always(tls: ssl.SSLContext) -> Callable[..., ssl.SSLContext]:
    def context(*_: object) -> ssl.SSLContext:
        return tls

    return context


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _url(listener: socket.socket, scheme: str) -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
