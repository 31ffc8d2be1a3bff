"""Servers as processes."""

import os
import socket
import sys

import pytest

from hyprstream.bench import servers
from hyprstream.bench.client import Endpoint
from hyprstream.bench.servers import LlamaServer, Running, Shape, Target
from hyprstream.core.errors import NotFound, Unavailable

SHAPE = Shape(n_slots=2, n_ctx=256, n_threads=1)


async def test_a_server_that_ends_at_once_is_reported_with_its_last_words() -> None:
    command = [sys.executable, "-c", "raise SystemExit('out of slots')"]
    with pytest.raises(Unavailable, match="exit code 1") as raised:
        async with servers._process("ours", command, os.environ, servers.free_port()):
            pass
    assert raised.value.hint == "ours said: out of slots"


async def test_a_server_that_was_not_built_is_reported_with_how_to_build_it(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "CHECKOUT", tmp_path)
    with pytest.raises(NotFound, match="no llama-server") as raised:
        async with LlamaServer(servers.CHECKOUT / "model.gguf").launch(SHAPE):
            pass
    assert raised.value.hint is not None and "bench/peers/build.py" in raised.value.hint


async def test_a_server_nobody_runs_is_reported() -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        async with Running("peer", Endpoint("127.0.0.1", servers.free_port())).launch(SHAPE):
            pass


def test_the_listener_on_a_port_is_found_by_its_pid() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert servers._pid_of_listener(Endpoint("127.0.0.1", port)) == os.getpid()
    assert servers._pid_of_listener(Endpoint("models.example", port)) is None


def test_memory_of_a_process_is_known_and_of_a_remote_server_is_not() -> None:
    endpoint = Endpoint("127.0.0.1", 1)
    here = Target("ours", endpoint, "m", os.getpid())
    assert here.rss_bytes is not None and here.rss_bytes > 2**20
    assert Target("theirs", endpoint, "m", None).rss_bytes is None


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_mapped_libraries_of_a_process_are_seen() -> None:
    assert any("libc" in path.name for path in servers.mapped_files(os.getpid()))
    assert Target("ours", Endpoint("h", 1), "m", None).engine_digests == {}


def test_the_installed_engine_is_found_without_loading_it() -> None:
    assert any(path.name.startswith("libllama.") for path in servers.library_directory().iterdir())
