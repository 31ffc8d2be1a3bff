"""The README's lines run as they are written."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from integration.conftest import HYPRSTREAM, Server

README = (Path(__file__).parents[2] / "README.md").read_text()
WRITTEN_URL = "http://127.0.0.1:8080"


def block(language: str, containing: str) -> str:
    """The one fenced block of a language that contains a text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    [found] = [code for code in blocks if containing in code]
    return found


@pytest.mark.parametrize(
    "command",
    [["bash", "-euc", block("bash", "curl")], [sys.executable, "-c", block("python", "OpenAI")]],
    ids=["curl", "python"],
)
def test_the_lines_that_ask_a_server_run_verbatim(command: list[str], server: Server) -> None:
    # Only the address differs: tests take a free port.
    command = [part.replace(WRITTEN_URL, server.url) for part in command]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert answer.strip()
    assert '"error"' not in answer


def test_the_python_example_has_no_more_lines_than_a_hand_has_fingers() -> None:
    lines = [line for line in block("python", "OpenAI").splitlines() if line]
    assert len(lines) == 5


def test_the_lines_about_versions_and_rules_run_verbatim(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(models_dir, tmp_path / "models", symlinks=True)
    monkeypatch.setenv("HYPRSTREAM_MODELS_DIR", str(tmp_path / "models"))
    script = block("bash", "hyprstream branch").replace(".venv/bin/", f"{HYPRSTREAM.parent}/")
    done = subprocess.run(["bash", "-uc", script], capture_output=True, text=True, timeout=60)
    assert "smollm2:experiment" in done.stdout
    assert "hypr_" in done.stdout
    # A token without a rule may do nothing, and that is the exit code too.
    assert "denied: token:alice may not infer model:smollm2:main" in done.stdout
    assert done.returncode == 1
