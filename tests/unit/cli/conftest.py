"""The command line as a user meets it, with a fake engine behind it."""

import io
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hyprstream import bootstrap
from hyprstream.cli.main import run
from hyprstream.services.services import Services
from hyprstream.settings import Settings
from support.command_line import Command, Outcome, Serve
from support.fake_engine import FakeEngine
from support.front_door import services_around


@pytest.fixture
def hyprstream(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run one command line; `stdin` is what is piped into it."""

    def call(*args: str, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = run(args)
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture
def serve_with(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Let every command of this test be answered by this engine."""

    def install(engine: FakeEngine) -> FakeEngine:
        @asynccontextmanager
        async def open_services(
            _settings: Settings, *, extra: Sequence[Path] = ()
        ) -> AsyncGenerator[Services]:
            services = services_around(engine)
            yield services
            await services.aclose()

        monkeypatch.setattr(bootstrap, "open_services", open_services)
        return engine

    return install
