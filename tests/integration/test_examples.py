"""The examples do what they say, against a real server."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from integration.conftest import HYPRSTREAM, Server

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
QUESTION = "What is the capital of France? Answer in one sentence.\n"


def run(*command: str | Path, stdin: str = "") -> str:
    """Standard output of a command that must succeed and complain of nothing."""
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, timeout=150
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_chat_answers_each_line(server: Server) -> None:
    answers = run(sys.executable, EXAMPLES / "chat.py", server.url, stdin=QUESTION + "Say yes.\n")
    first, _, second = answers.partition("\n")
    assert "Paris" in first
    assert second.strip()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl_lists_the_models_and_gets_one_answer_in_both_ways(server: Server) -> None:
    models, answer, *stream = run("sh", EXAMPLES / "curl.sh", server.url).splitlines()
    assert "smollm2:main" in [model["id"] for model in json.loads(models)["data"]]
    text = json.loads(answer)["choices"][0]["message"]["content"]
    assert "Paris" in text
    *events, end = [line.removeprefix("data: ") for line in stream if line]
    assert end == "[DONE]"
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == text


@pytest.fixture
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """`hyprstream` is found as it is by somebody who has installed it."""
    monkeypatch.setenv("PATH", f"{HYPRSTREAM.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_a_guest_may_ask_one_model_until_its_token_is_taken_back(
    server: Server, on_the_path: None
) -> None:
    command = ["sh", EXAMPLES / "tokens.sh", server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=150)
    said = [line for line in done.stdout.splitlines() if not line.startswith((" ", "+", "-", "@"))]
    assert said == [
        "without a rule: 404",
        "with a rule: 200",
        "the list of models: 403",
        "revoked: 401",
    ]


def test_a_branch_is_made_changed_compared_and_merged(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_the_path: None
) -> None:
    shutil.copytree(models_dir, tmp_path / "models", symlinks=True)
    monkeypatch.setenv("HYPRSTREAM_MODELS_DIR", str(tmp_path / "models"))
    command = ["sh", EXAMPLES / "versions.sh"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=150)
    assert "added     NOTES.md" in done.stdout
    assert "files  NOTES.md" in done.stdout
    notes = tmp_path / "models" / "smollm2" / "worktrees" / "main" / "NOTES.md"
    assert notes.read_text() == "Answers in the style of a telegram.\n"
