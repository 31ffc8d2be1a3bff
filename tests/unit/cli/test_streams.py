"""Ordinary input that is not quite text, and streams that are not there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HYPRSTREAM = Path(sys.executable).parent / "hyprstream"


def run(shell: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", shell],
        env={**os.environ, "H": str(HYPRSTREAM), **environment},
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    ["$H infer nosuch -p $'\\xff\\xfe'", "printf '\\xff\\xfe' | $H infer nosuch"],
    ids=["argument", "standard input"],
)
def test_a_prompt_that_is_not_utf8_is_refused_in_one_line(command: str) -> None:
    done = run(command)
    assert done.returncode == 2
    assert b"not UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr


def test_an_argument_is_utf8_whatever_the_locale() -> None:
    done = run("$H infer nosuch -p 😀", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 3, done.stderr


def test_a_terminal_without_a_character_gets_a_replacement() -> None:
    done = run("$H infer é😀 -p x", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_stream_that_is_closed_is_no_bug(closed: str) -> None:
    done = run(f"$H infer nosuch -p x {closed}")
    assert done.returncode == 3
    assert b"Traceback" not in done.stderr
