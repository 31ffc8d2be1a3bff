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
def models_dir(smollm2_models_dir: Path) -> Path:
    """The registry that holds smollm2."""
    return smollm2_models_dir


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose policy lets the users of this machine do everything."""
    directory = tmp_path_factory.mktemp("data")
    subprocess.run(
        [HYPRSTREAM, "policy", "apply-template", "local"],
        env={**os.environ, "HYPRSTREAM_DATA_DIR": str(directory)},
        check=True,
        capture_output=True,
    )
    return directory


@pytest.fixture(autouse=True)
def allowed(home: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of these tests is run by somebody who may do everything."""
    monkeypatch.setenv("HYPRSTREAM_DATA_DIR", str(data_dir))


@pytest.fixture(scope="session")
def server(models_dir: Path, data_dir: Path) -> Iterator[Server]:
    server = start_server(models_dir, "--model", "smollm2", HYPRSTREAM_DATA_DIR=str(data_dir))
    yield server
    assert stop_server(server) == 0
