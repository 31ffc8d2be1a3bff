"""What stands between a command line and an open port."""

import errno
import os
import shlex
from collections.abc import Callable, Sequence

import pytest

from hyprstream import bootstrap
from hyprstream.cli.server import curl_example
from hyprstream.settings import Settings
from support.command_line import Command


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, list[str]]]:
    """Settings and models of every server that was started."""
    started: list[tuple[Settings, list[str]]] = []

    def serve(
        settings: Settings, *, models: Sequence[str] = (), on_started: Callable[[str], None]
    ) -> None:
        started.append((settings, list(models)))
        on_started(f"http://{settings.server.host}:{settings.server.port}")

    monkeypatch.setattr(bootstrap, "serve", serve)
    return started


def test_flags_become_settings_and_the_url_is_said(
    hyprstream: Command, served: list[tuple[Settings, list[str]]]
) -> None:
    flags = "--model fake --model other --port 9000 --n-ctx 512 --n-slots 2 --n-threads 1 --log-level debug"
    outcome = hyprstream("server", *flags.split())
    assert outcome.code == 0
    first, *others = outcome.out.splitlines()
    assert first == "hyprstream serves at http://127.0.0.1:9000"
    assert any("curl http://127.0.0.1:9000/v1/chat/completions" in line for line in others)
    [(settings, models)] = served
    assert models == ["fake", "other"]
    engine = settings.engine
    assert (engine.n_ctx, engine.n_slots, engine.n_threads) == (512, 2, 1)
    assert settings.log.level == "debug"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2"])
def test_an_address_others_reach_needs_a_key_or_a_clear_word(
    host: str,
    hyprstream: Command,
    served: list[tuple[Settings, list[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = hyprstream("server", "--host", host)
    assert refused.code == 2
    assert "HYPRSTREAM_API_KEY" in refused.err and "--insecure" in refused.err
    assert served == []
    assert hyprstream("server", "--host", host, "--insecure").code == 0
    monkeypatch.setenv("HYPRSTREAM_API_KEY", "sesame")
    outcome = hyprstream("server", "--host", host)
    assert outcome.code == 0
    assert "sesame" not in outcome.out + outcome.err
    assert "$HYPRSTREAM_API_KEY" in outcome.out


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (
            errno.EADDRINUSE,
            1,
            "127.0.0.1:8080 is in use already\ntry: hyprstream server --port 8081",
        ),
        (errno.EACCES, 1, "127.0.0.1:8080 needs privileges"),
        (errno.EADDRNOTAVAIL, 2, "127.0.0.1 is not an address of this machine"),
        (errno.ENOSPC, 1, "No space left on device"),
    ],
)
def test_a_port_that_cannot_be_had_is_one_line(
    number: int, code: int, words: str, hyprstream: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(_settings: Settings, **_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(bootstrap, "serve", serve)
    outcome = hyprstream("server")
    assert outcome.code == code
    assert words in outcome.err
    assert "Traceback" not in outcome.err


def test_a_flag_out_of_range_is_refused(hyprstream: Command) -> None:
    outcome = hyprstream("server", "--port", "70000")
    assert outcome.code == 2
    assert (
        "server.port (command line) = 70000: expected a whole number from 0 to 65535" in outcome.err
    )


def test_the_example_survives_a_shell() -> None:
    words = shlex.split(curl_example("http://[::1]:1", "fake", with_key=False))
    assert words[:2] == ["curl", "http://[::1]:1/v1/chat/completions"]
    proven = shlex.split(curl_example("https://a:1", "fake", with_key=False, with_certificate=True))
    assert proven[2:6] == ["--cert", "client.pem", "--key", "client.key"]
    assert words[-1] == '{"model": "fake", "messages": [{"role": "user", "content": "Hello!"}]}'
