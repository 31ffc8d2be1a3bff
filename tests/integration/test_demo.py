"""The whole way in one command, with the real model and a real server."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

DEMO = [sys.executable, "-m", "hyprstream.cli.main", "demo"]


@pytest.fixture
def environment(smollm2_models_dir: Path) -> dict[str, str]:
    """A registry that has the model already, and a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return {
        **os.environ,
        "HYPRSTREAM_MODELS_DIR": str(smollm2_models_dir),
        "HYPRSTREAM_SERVER_PORT": str(port),
        "HYPRSTREAM_ENGINE_N_CTX": "256",
    }


def test_a_question_is_answered_on_standard_output(environment: dict[str, str]) -> None:
    question = "What is the capital of France? `$5` & \"quotes\" 'too'"
    done = subprocess.run(
        [*DEMO, "--prompt", question],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip()
    assert f"> {question}\n" in done.stderr
    assert f"http://127.0.0.1:{environment['HYPRSTREAM_SERVER_PORT']}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_said_and_another_one_used(environment: dict[str, str]) -> None:
    port = environment["HYPRSTREAM_SERVER_PORT"]
    with socket.create_server(("127.0.0.1", int(port))):
        done = subprocess.run(
            DEMO,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
    assert f"port {port} is taken" in done.stderr
    assert done.stdout.strip()


def test_no_server_stays_behind_when_it_is_stopped(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [*DEMO, "--prompt", "Tell me a very long story."],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1), "the answer has begun"
        servers = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert [server.is_running() for server in servers] == [False]
