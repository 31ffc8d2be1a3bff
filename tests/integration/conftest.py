"""A real server with the real model, started as a user starts it, once for all tests."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HYPRSTREAM = Path(sys.executable).parent / "hyprstream"


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    process: subprocess.Popen[str]


def start_server(models_dir: Path, *flags: str, **environment: str) -> Server:
    """Run `hyprstream server` on a free port and wait until it says where."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HYPRSTREAM_")}
    process = subprocess.Popen(
        [HYPRSTREAM, "server", "--port", "0", *flags],
        env={**inherited, "HYPRSTREAM_MODELS_DIR": str(models_dir), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "http://" in line, f"the server ended with {process.poll()}"
    return Server(line.split()[-1], process)


def stop_server(server: Server) -> int:
    """Ask it to end, as an init system does; returns its exit code."""
    with server.process as process:
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(30)
        finally:
            process.kill()


@pytest.fixture(scope="session")
def models_dir(smollm2_path: Path) -> Path:
    """The store that holds smollm2."""
    return smollm2_path.parents[2]


@pytest.fixture(scope="session")
def server(models_dir: Path) -> Iterator[Server]:
    server = start_server(models_dir, "--model", "smollm2")
    yield server
    assert stop_server(server) == 0
