"""The command table, and what failures look like from a shell."""

import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

import pytest
import typer
from typer.main import get_command

from hyprstream.cli import options
from hyprstream.cli.main import COMMANDS, make_group
from hyprstream.registry.registry import Registry
from support.command_line import Command, Serve
from support.fake_engine import FakeEngine
from support.front_door import FakeStore

COMMAND_LINE = [sys.executable, "-m", "hyprstream.cli.main"]


def _help_of(target: object) -> str:
    if isinstance(target, typer.Typer):
        return get_command(target).help or ""
    return (target.__doc__ or "").strip()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_repeats_the_first_line_of_a_commands_own_help(name: str) -> None:
    target, line = COMMANDS[name]
    module, _, attribute = target.partition(":")
    assert _help_of(getattr(import_module(module), attribute)).splitlines()[0] == line


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "config"])
def test_every_help_has_an_example(name: str, hyprstream: Command) -> None:
    outcome = hyprstream(name, "--help")
    assert outcome.code == 0
    assert f"Example: hyprstream {name}" in " ".join(outcome.out.split())


def test_the_help_lists_every_command_and_the_exit_codes(hyprstream: Command) -> None:
    outcome = hyprstream("--help")
    assert outcome.code == 0
    assert all(name in outcome.out for name in COMMANDS)
    assert "130 interrupted" in " ".join(outcome.out.split())


def test_the_version_is_the_packages(hyprstream: Command) -> None:
    assert hyprstream("--version").out == f"hyprstream {version('hyprstream')}\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["infre"],
            "error: No such command 'infre'. Did you mean 'infer'?\ntry: hyprstream --help\n",
        ),
        (["infer"], "error: Missing argument 'MODEL'.\ntry: hyprstream infer --help\n"),
        (
            ["infer", "fake", "--xyzzy"],
            "error: No such option: --xyzzy\ntry: hyprstream infer --help\n",
        ),
    ],
)
def test_bad_usage_is_one_line_a_hint_and_two(
    args: list[str], message: str, hyprstream: Command
) -> None:
    outcome = hyprstream(*args)
    assert (outcome.code, outcome.out, outcome.err) == (2, "", message)


def test_a_missing_model_is_three_and_says_how_to_get_one(hyprstream: Command) -> None:
    outcome = hyprstream("infer", "nothing", "-p", "Hello")
    assert outcome.code == 3
    assert outcome.err.startswith("error: no model 'nothing'\ntry: hyprstream pull")


def test_a_wrong_setting_is_two(hyprstream: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPRSTREAM_SERVER_PORT", "eighty")
    outcome = hyprstream("infer", "fake", "-p", "Hello")
    assert outcome.code == 2
    assert outcome.err.startswith("error: HYPRSTREAM_SERVER_PORT = 'eighty'")


def test_a_bug_keeps_its_traceback(hyprstream: Command, serve_with: Serve) -> None:
    serve_with(FakeEngine("Hi", fails=ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        hyprstream("infer", "fake", "-p", "Hello")


def test_a_reader_that_leaves_early_leaves_no_traceback() -> None:
    with subprocess.Popen(
        [*COMMAND_LINE, "config", "show"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_the_names_of_stored_models_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registry, "list", lambda _self: FakeStore().list())
    assert list(options.complete_model("")) == ["fake", "other:lora/medical"]
    assert list(options.complete_model("fa")) == ["fake"]


def test_a_broken_setting_does_not_break_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPRSTREAM_SERVER_PORT", "eighty")
    assert list(options.complete_model("")) == []


def test_the_group_stands_for_commands_it_has_not_imported() -> None:
    group = make_group()
    assert {name: command.help for name, command in group.commands.items()} == {
        name: line for name, (_, line) in COMMANDS.items()
    }
