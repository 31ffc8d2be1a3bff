"""What the real model costs on disk: branches share its bytes, and a clone of it is as good as the original."""

import os
from collections import deque
from pathlib import Path

import pytest

from hyprstream.core.refs import ModelRef
from hyprstream.registry.pull import pull
from hyprstream.registry.registry import Registry
from hyprstream.registry.sources.partial import sha256_of


def disk_bytes(directory: Path) -> int:
    """What a directory takes, each inode counted once."""
    found = {
        (stat.st_dev, stat.st_ino): stat.st_blocks * 512
        for at, directories, files in os.walk(directory)
        for stat in (Path(at, name).lstat() for name in (*directories, *files))
    }
    return sum(found.values())


@pytest.fixture
def registry(tmp_path: Path, smollm2_path: Path) -> Registry:
    """A registry of its own that holds SmolLM2."""
    registry = Registry(tmp_path / "models")
    deque(pull(registry, str(smollm2_path), name=ModelRef("smollm2")), maxlen=0)
    return registry


def branch(registry: Registry, name: str) -> None:
    registry.repository("smollm2").create_branch(name, "main")
    registry.repository("smollm2").add_worktree(name)


def test_ten_branches_take_what_one_takes(registry: Registry) -> None:
    one = disk_bytes(registry.models_dir)

    for i in range(9):
        branch(registry, f"experiment/{i}")

    ten = disk_bytes(registry.models_dir)
    assert len(registry.list()) == 10
    assert ten < 1.03 * one
    assert registry.dedup_report().logical_bytes > 9.9 * one


def test_a_clone_with_three_branches_serves_the_very_bytes(
    registry: Registry, smollm2_path: Path, tmp_path: Path
) -> None:
    branch(registry, "a")
    branch(registry, "b/c")
    other = Registry(tmp_path / "other")

    deque(other.clone(registry.repository("smollm2").git.git_dir.as_uri(), full=True), maxlen=0)

    assert [str(model.ref) for model in other.list()] == [
        "smollm2:a",
        "smollm2:b/c",
        "smollm2",
    ]
    model = other.resolve(ModelRef("smollm2", "b/c"))
    assert sha256_of(Path(model.path)) == model.sha256 == sha256_of(smollm2_path)
    assert disk_bytes(other.models_dir) < 1.03 * disk_bytes(registry.models_dir)
