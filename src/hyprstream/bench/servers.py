"""The servers a benchmark talks to: running already, or started for it and stopped after it.

Knows processes, ports, memory and which library files a process has mapped; knows no load and no results.
"""

import asyncio
import hashlib
import importlib.util
import os
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import psutil

from hyprstream.bench.client import Endpoint, get, json_object
from hyprstream.core.errors import BackendError, HyprstreamError, NotFound, Unavailable
from hyprstream.settings import CONFIG_VARIABLE, PREFIX, variables

START_SECONDS = 120.0
"""Longest a server may take from its start until it is ready."""
STOP_SECONDS = 20.0
"""Longest a server may take to stop before it is killed."""
POLL_SECONDS = 0.05
CHECKOUT = Path(__file__).parents[3]
"""Top of the source tree; the peers live there and not in the package."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How a server is to be run, the same for every side."""

    n_slots: int
    n_ctx: int
    """Context window of one slot, in tokens."""
    n_threads: int
    max_queue: int | None = None
    """Requests that may wait for a slot; None leaves it to the server."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server that answers."""

    name: str
    endpoint: Endpoint
    model: str
    pid: int | None
    """None if it runs elsewhere."""

    @property
    def rss_bytes(self) -> int | None:
        """Resident memory of the server and its children; None if unknown. Mapped weights count in full."""
        if self.pid is None:
            return None
        try:
            process = psutil.Process(self.pid)
            family = [process, *process.children(recursive=True)]
            return sum(member.memory_info().rss for member in family)
        except psutil.Error:
            return None

    @property
    def engine_digests(self) -> dict[str, str]:
        """SHA-256 of the llama.cpp libraries it has mapped, by name; empty where that cannot be seen."""
        if self.pid is None:
            return {}
        return {
            path.name.partition(".so")[0]: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in mapped_files(self.pid)
            if path.name.startswith(("libllama.so", "libggml"))
        }


class Launcher(Protocol):
    """Makes a target for the time of one scenario."""

    @property
    def name(self) -> str:
        """What the reports call it."""
        ...

    def launch(self, shape: Shape) -> AbstractAsyncContextManager[Target]:
        """A server of that shape, ready to answer.

        Raises:
            NotFound: there is nothing to start.
            Unavailable: it does not become ready.
        """
        ...


@dataclass(frozen=True, slots=True)
class Running:
    """A server somebody else started; its shape is what it is."""

    name: str
    endpoint: Endpoint

    @asynccontextmanager
    async def launch(self, shape: Shape) -> AsyncGenerator[Target]:
        yield await _target(self.name, self.endpoint, _pid_of_listener(self.endpoint))


@dataclass(frozen=True, slots=True)
class Hyprstream:
    """Our own server, of the environment this runs in. Of the user's settings only the model store reaches it."""

    model: str
    """Name of a stored model."""
    models_dir: Path
    name: str = "hyprstream"

    @asynccontextmanager
    async def launch(self, shape: Shape) -> AsyncGenerator[Target]:
        port = free_port()
        command = [sys.executable, "-c", "from hyprstream.cli.main import main; main()"]
        with tempfile.TemporaryDirectory(prefix="hyprstream-bench-") as data:
            environment = self._environment(shape, port, data)
            # The server measured has a policy to ask, as one in use has; this one allows whoever runs the bench.
            await _run([*command, "policy", "apply-template", "local"], environment)
            command += ["server", "--model", self.model, "--log-level", "warning"]
            async with _process(self.name, command, environment, port) as target:
                yield target

    def _environment(self, shape: Shape, port: int, data: str) -> dict[str, str]:
        values: dict[str, object] = {
            "data.dir": data,
            "models.dir": self.models_dir,
            "server.port": port,
            "engine.n_slots": shape.n_slots,
            "engine.n_ctx": shape.n_ctx,
            "engine.n_threads": shape.n_threads,
        }
        if shape.max_queue is not None:
            values["engine.max_queue"] = shape.max_queue
        names = variables()
        environment = {name: v for name, v in os.environ.items() if not name.startswith(PREFIX)}
        environment |= {names[key]: str(value) for key, value in values.items()}
        return environment | {CONFIG_VARIABLE: os.devnull}


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """llama-server as `bench/peers/build.py` makes it: its own code on our libllama and libggml."""

    model_path: Path
    name: str = "llama-server"

    @asynccontextmanager
    async def launch(self, shape: Shape) -> AsyncGenerator[Target]:
        port = free_port()
        libraries = library_directory()
        command = [
            *(str(llama_server_path()), "--model", str(self.model_path)),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--parallel", str(shape.n_slots), "--ctx-size", str(shape.n_ctx * shape.n_slots)),
            *("--threads", str(shape.n_threads), "--threads-batch", str(shape.n_threads)),
            *("--metrics", "--no-webui"),
        ]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
        async with _process(self.name, command, environment, port) as target:
            assert target.pid is not None, "we started it"
            _require_our_engine(target.pid, libraries)
            yield target


def llama_server_path() -> Path:
    """The peer that was built for the installed llama-cpp-python.

    Raises:
        NotFound: nobody has built it yet.
    """
    tree = CHECKOUT / ".cache" / "peers" / f"llama-server-{version('llama-cpp-python')}"
    path = tree / "bin" / "llama-server"
    if not path.is_file():
        hint = "python bench/peers/build.py in a checkout of the sources (about five minutes)"
        raise NotFound(f"no llama-server at {path}", kind="file", hint=hint)
    return path


def library_directory() -> Path:
    """Where the installed libllama.so is. The package is found and not imported: importing would load it."""
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None and spec.origin is not None, "llama-cpp-python is a dependency of ours"
    return Path(spec.origin).parent / "lib"


def mapped_files(pid: int) -> set[Path]:
    """Shared libraries a process has mapped (`/proc/PID/maps`, proc(5)); empty where there is no /proc."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    # address, permissions, offset, device, inode, path
    columns = [line.split(maxsplit=5) for line in lines]
    return {Path(row[5]) for row in columns if len(row) == 6 and ".so" in row[5]}


def free_port() -> int:
    """A TCP port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def _process(
    name: str, command: Sequence[str], environment: Mapping[str, str], port: int
) -> AsyncGenerator[Target]:
    """A server process: ready when the block is entered, gone when it is left."""
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            endpoint = Endpoint("127.0.0.1", port)
            await _until_ready(endpoint, process)
            yield await _target(name, endpoint, process.pid)
        except HyprstreamError as error:
            # What the server said of itself is the best hint there is.
            log.seek(max(0, log.seek(0, os.SEEK_END) - 600))
            said = log.read().decode(errors="replace").strip()
            error.hint = error.hint or f"{name} said: {said or 'nothing'}"
            raise
        finally:
            await _stop(process)


async def _run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """A command that ends by itself.

    Raises:
        BackendError: it failed.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    if process.returncode:
        raise BackendError(f"{command[-3]} {command[-2]}: {said.decode(errors='replace').strip()}")


async def _until_ready(endpoint: Endpoint, process: asyncio.subprocess.Process) -> None:
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await _is_ready(endpoint):
                if process.returncode is not None:
                    raise Unavailable(f"the server ended with exit code {process.returncode}")
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise Unavailable(f"{endpoint} was not ready after {START_SECONDS:g} s") from None


async def _is_ready(endpoint: Endpoint) -> bool:
    try:
        return (await get(endpoint, "/health")).status == 200
    except Unavailable:
        return False


async def _target(name: str, endpoint: Endpoint, pid: int | None) -> Target:
    response = await get(endpoint, "/v1/models")
    if response.status != 200:
        said = response.body[:200].decode(errors="replace")
        raise BackendError(f"{endpoint}/v1/models answered {response.status}: {said}")
    models: Any = json_object(response.body).get("data")
    if not models:
        raise BackendError(f"{endpoint} serves no model", hint="load one before measuring")
    return Target(name, endpoint, str(models[0]["id"]), pid)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _require_our_engine(pid: int, libraries: Path) -> None:
    foreign = sorted(
        str(path)
        for path in mapped_files(pid)
        if path.name.startswith(("libllama.so", "libggml")) and path.parent != libraries
    )
    if foreign:
        raise BackendError(
            f"llama-server runs on {', '.join(foreign)} and not on the libraries of {libraries}",
            hint="python bench/peers/build.py",
        )


def _pid_of_listener(endpoint: Endpoint) -> int | None:
    """The process that listens on this port of our own machine; None if it is elsewhere or not ours to see."""
    if endpoint.host not in ("127.0.0.1", "localhost", "::1"):
        return None
    try:
        sockets: list[Any] = psutil.net_connections("tcp")
    except (OSError, psutil.Error):
        return None
    listeners = (s for s in sockets if s.status == psutil.CONN_LISTEN and s.laddr)
    return next((s.pid for s in listeners if s.laddr.port == endpoint.port), None)
