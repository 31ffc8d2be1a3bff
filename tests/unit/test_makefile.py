"""The two make commands, as far as they can be asked without installing anything."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def _make(*arguments: str) -> str:
    command = ["make", "--silent", "--directory", str(ROOT), "--no-print-directory", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "question",
    [
        "Why is the sky blue?",
        "It costs $5, $(shell echo no), $$ and ${HOME}.",
        """Quotes: ' " ` \\ and & | ; < > * ~ # %""",
        "-p is a flag",
        "Grüße,\nzwei Zeilen",
    ],
)
def test_a_prompt_reaches_the_command_as_it_was_typed(question: str) -> None:
    ask = 'ask: ; @printf "%s" "$$QUESTION"'
    assert _make("--eval", ask, "ask", f"PROMPT={question}") == question


def test_a_prompt_of_the_shell_is_not_taken_for_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPT", "%n@%m %~ ")
    ask = 'ask: ; @printf "%s" "$${QUESTION:-none}"'
    assert _make("--eval", ask, "ask") == "none"


def test_make_alone_explains_every_target() -> None:
    [phony] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    explained = [line.split()[1] for line in _make().splitlines()]
    assert sorted(explained) == sorted(phony.split())
