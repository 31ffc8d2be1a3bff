"""What is set, and by whom."""

import json
from pathlib import Path

import pytest

from hyprstream.settings import load
from support.command_line import Command


def test_every_setting_is_shown_with_its_source(
    hyprstream: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "other.toml"
    config.write_text("[engine]\nn_ctx = 512\n")
    monkeypatch.setenv("HYPRSTREAM_SERVER_PORT", "9000")
    lines = hyprstream("--config", str(config), "config", "show").out.splitlines()
    assert [line.split()[0] for line in lines] == list(load().sources)
    words = {line.split()[0]: line.split()[1:] for line in lines}
    assert words["server.port"] == ["9000", "HYPRSTREAM_SERVER_PORT"]
    assert words["engine.n_ctx"] == ["512", str(config)]
    assert words["server.host"] == ['"127.0.0.1"', "default"]


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_secret_is_masked(
    flags: list[str], hyprstream: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPRSTREAM_API_KEY", "sesame")
    outcome = hyprstream("config", "show", *flags)
    assert "sesame" not in outcome.out
    assert "**********" in outcome.out


def test_json_names_the_variable_too(hyprstream: Command) -> None:
    entries = json.loads(hyprstream("config", "show", "--json").out)
    assert entries["models.max_cached"] == {
        "value": 2,
        "source": "default",
        "variable": "HYPRSTREAM_MAX_CACHED_MODELS",
    }


def test_the_path_of_the_file_is_told(hyprstream: Command, home: Path) -> None:
    assert hyprstream("config", "path").out == f"{home}/.config/hyprstream/config.toml\n"
    assert hyprstream("--config", "x.toml", "config", "path").out == "x.toml\n"
