"""The command lines people were promised, word for word. Only the host they name is a bare repository of this test's."""

import io
import shlex
import sys
from pathlib import Path

import pytest

from hyprstream.cli.main import run
from support.model_remote import ModelRemote

HUB = "https://huggingface.co/Qwen/Qwen3-0.6B"

SETUP = "hyprstream policy apply-template local"
CLONE = """
hyprstream clone https://huggingface.co/Qwen/Qwen3-0.6B
hyprstream clone https://huggingface.co/Qwen/Qwen3-0.6B --name qwen3-small
"""
READ = """
hyprstream list
hyprstream inspect qwen3-small           # By name
hyprstream inspect qwen3-small:main      # Specific branch
hyprstream inspect qwen3-small:v1.0      # Specific tag
hyprstream inspect qwen3-small:abc123    # Specific commit
"""
PULL = """
hyprstream pull qwen3-small           # Update to latest
hyprstream pull qwen3-small main      # Update specific branch
"""
PUSH = "hyprstream push qwen3-small origin main"

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, and nobody at standard input."""
    monkeypatch.setenv("HYPRSTREAM_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return tmp_path / "models"


@pytest.fixture
def hub(tmp_path: Path, capsys: Capture) -> ModelRemote:
    """What stands for the hub; and local users are let in, as the installation's lines say."""
    remote = ModelRemote.create(tmp_path / "Qwen" / "Qwen3-0.6B")
    follow(SETUP, remote, capsys)
    return remote


def follow(lines: str, hub: ModelRemote, capture: Capture) -> list[str]:
    """Run the lines one by one as a shell would; returns what each wrote to both streams."""
    said: list[str] = []
    for line in lines.strip().splitlines():
        program, *words = shlex.split(line, comments=True)
        assert program == "hyprstream"
        code = run([hub.url if word == HUB else word for word in words])
        out, err = capture.readouterr()
        assert code == 0, f"{line}\n{err}"
        said.append(out + err)
    return said


def test_a_model_is_cloned_under_its_own_name_and_under_another(hub, store, capsys):
    follow(CLONE, hub, capsys)
    (listing,) = follow("hyprstream list", hub, capsys)
    assert [line.split()[0] for line in listing.splitlines()[1:]] == [
        "Qwen3-0.6B:main",
        "qwen3-small:main",
    ]
    for name in ("Qwen3-0.6B", "qwen3-small"):
        assert (store / name / "worktrees" / "main" / "model.gguf").is_file()


def test_each_reference_is_inspected_at_exactly_its_own_version(hub, capsys):
    follow(CLONE, hub, capsys)
    listing, by_name, by_branch, by_tag, by_commit = follow(READ, hub, capsys)
    assert "UUID" in listing
    assert hub.commit("main") in by_name and hub.commit("main") in by_branch
    assert hub.commit("v1.0") in by_tag
    assert hub.commit("abc123") in by_commit


def test_a_clone_is_brought_up_to_date_and_its_own_commits_are_sent_back(hub, store, capsys):
    follow(CLONE, hub, capsys)
    newest = hub.advance()
    updated, again = follow(PULL, hub, capsys)
    assert f"to {newest[:8]}" in updated
    assert "is up to date" in again

    (store / "qwen3-small" / "worktrees" / "main" / "README.md").write_text("# Mine\n")
    follow("hyprstream commit qwen3-small -m Mine", hub, capsys)
    follow(PUSH, hub, capsys)
    assert hub.commit("main~1") == newest
