"""The command line answers at once: asking for help imports nothing that takes long."""

import subprocess
import sys

import pytest

from hyprstream.cli.main import COMMANDS

HEAVY = frozenset(
    {
        "casbin",
        "fastapi",
        "httpx",
        "huggingface_hub",
        "jinja2",
        "llama_cpp",
        "numpy",
        "prompt_toolkit",
        "pydantic",
        "starlette",
        "structlog",
        "torch",
        "transformers",
        "uvicorn",
    }
)

PROBE = """
import contextlib, io, sys
from hyprstream.cli.main import run
with contextlib.redirect_stdout(io.StringIO()) as out:
    code = run({args!r})
assert code == 0 and out.getvalue(), code
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def _imported(*args: str) -> set[str]:
    probe = PROBE.format(args=list(args))
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("args", [["--help"], ["--version"]])
def test_the_front_door_imports_no_heavy_library(args: list[str]) -> None:
    assert _imported(*args) & HEAVY == set()


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "config"])
def test_a_commands_help_imports_no_heavy_library(name: str) -> None:
    # Typer itself reads a command's values by pydantic.
    assert _imported(name, "--help") & (HEAVY - {"pydantic"}) == set()


def test_the_libraries_that_are_looked_for_exist_under_these_names() -> None:
    modules = "hyprstream.engine.llamacpp, hyprstream.server.app, hyprstream.bootstrap"
    probe = f"import {modules}, sys; print(*{{n.partition('.')[0] for n in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert {"fastapi", "llama_cpp", "numpy", "pydantic"} <= set(done.stdout.split())
