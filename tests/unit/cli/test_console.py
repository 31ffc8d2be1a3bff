"""What reaches a terminal, and what the shell is told."""

import io
import sys
from collections.abc import Iterator

import pytest

from hyprstream.cli import console
from hyprstream.core import errors
from hyprstream.core.errors import HyprstreamError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _tree(base: type[HyprstreamError]) -> Iterator[type[HyprstreamError]]:
    for cls in base.__subclasses__():
        if cls.__module__ == errors.__name__:
            yield cls
            yield from _tree(cls)


@pytest.mark.parametrize("cls", list(_tree(HyprstreamError)), ids=lambda cls: cls.__name__)
def test_every_class_of_the_tree_has_an_exit_code_that_the_help_explains(
    cls: type[HyprstreamError],
) -> None:
    code = console.exit_code(cls.__new__(cls))
    assert code not in (console.OK, console.INTERRUPTED)
    assert f"{code} " in console.EXIT_CODES_HELP


def test_a_subclass_has_the_code_of_its_nearest_listed_ancestor() -> None:
    overflow = errors.ContextOverflow(needed=2, available=1)
    assert console.exit_code(overflow) == console.EXIT_CODES[errors.Invalid]


def test_escape_sequences_of_a_model_do_not_reach_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    console.show("a\x1b]0;title\x07b\r\n\tc\x9b")
    assert terminal.getvalue() == "a\ufffd]0;title\ufffdb\ufffd\n\tc\ufffd\n"


def test_a_pipe_gets_the_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.show("a\x1b[1mb", end="")
    assert capsys.readouterr().out == "a\x1b[1mb"


def test_an_error_is_one_line_and_its_way_out_another(capsys: pytest.CaptureFixture[str]) -> None:
    console.report("no model\n'x [bold]y[/bold]'", "hyprstream pull " + 100 * "x")
    assert capsys.readouterr().err == (
        "error: no model 'x [bold]y[/bold]'\n" + "try: hyprstream pull " + 100 * "x" + "\n"
    )


def test_no_color_is_respected_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    written: list[str] = []
    for no_color in (None, "1"):
        if no_color:
            monkeypatch.setenv("NO_COLOR", no_color)
        else:
            monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setattr(sys, "stderr", Terminal())
        console.report("it broke")
        written.append(sys.stderr.getvalue())  # type: ignore[attr-defined]
    assert "\x1b[1;31m" in written[0]
    assert "31m" not in written[1]
