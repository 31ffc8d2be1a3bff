"""Killed at any step, the registry is as it was before or as it should be after; and the same work once more succeeds."""

import shutil
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hyprstream.core.refs import ModelRef
from hyprstream.registry.pull import pull
from hyprstream.registry.registry import Registry
from hyprstream.registry.sources.partial import sha256_of
from support.crashing import count_steps, kill_at
from support.first_layout import write_model
from support.registries import TINY, add, another

N_POINTS = 8
"""Of each kind of work, at most so many of its steps are tried."""
N_MORE_POINTS = 20
"""Of what brings a model here or changes it."""


@dataclass(frozen=True)
class Work:
    """Something that changes a registry, and what must be there before."""

    do: Callable[[Path], object]
    prepare: Callable[[Path], object] = lambda root: None
    n_points: int = N_POINTS


def registry_at(root: Path) -> Registry:
    return Registry(root / "models")


def exhausted(events: object) -> None:
    deque(events, maxlen=0)  # type: ignore[arg-type]


def import_file(root: Path) -> None:
    exhausted(pull(registry_at(root), str(root / "Tiny.gguf")))


def import_version(root: Path) -> None:
    add(registry_at(root), "tiny:v2", another(2))


def clone(root: Path) -> None:
    url = (root / "upstream" / "tiny" / "repo.git").as_uri()
    exhausted(registry_at(root).clone(url, full=True))


def update(root: Path) -> None:
    exhausted(registry_at(root).update("tiny"))


def commit(root: Path) -> None:
    registry = registry_at(root)
    (registry.repository("tiny").worktree_path("main") / "model.gguf").unlink()
    (registry.repository("tiny").worktree_path("main") / "model.gguf").write_bytes(another(5))
    registry.repository("tiny").commit("main", "other weights")


def materialise(root: Path) -> None:
    registry_at(root).repository("tiny").add_worktree("v2")


def remove_model(root: Path) -> None:
    registry = registry_at(root)
    registry.remove(registry.removal("tiny"))


def remove_branch(root: Path) -> None:
    registry = registry_at(root)
    registry.remove(registry.removal(ModelRef("tiny", "v2")))


def prepared_import(root: Path) -> None:
    add(registry_at(root), "tiny")


def prepared_branch(root: Path) -> None:
    prepared_import(root)
    import_version(root)


def prepared_without_worktree(root: Path) -> None:
    prepared_branch(root)
    registry_at(root).repository("tiny").remove_worktree("v2")


def prepared_removal(root: Path) -> None:
    prepared_branch(root)
    remove_model(root)


def prepared_clone(root: Path) -> None:
    upstream = Registry(root / "upstream")
    add(upstream, "tiny")
    add(upstream, "tiny:v2", another(2))


def prepared_update(root: Path) -> None:
    prepared_clone(root)
    clone(root)
    add(Registry(root / "upstream"), "tiny", another(7))


def prepared_first_layout(root: Path) -> None:
    write_model(root / "models", "tiny", "main", {"model.gguf": TINY})
    write_model(root / "models", "tiny", "v2", {"model.gguf": another(2)})


WORK = {
    "import": Work(import_file),
    "import of a version": Work(import_version, prepared_import),
    "clone": Work(clone, prepared_clone, N_MORE_POINTS),
    "update": Work(update, prepared_update),
    "commit": Work(commit, prepared_import, N_MORE_POINTS),
    "materialise": Work(materialise, prepared_without_worktree, N_MORE_POINTS),
    "remove a model": Work(remove_model, prepared_branch),
    "remove a branch": Work(remove_branch, prepared_branch),
    "rename": Work(lambda root: registry_at(root).rename("tiny", "small"), prepared_branch),
    "undo": Work(lambda root: registry_at(root).undo(), prepared_removal),
    "collect": Work(lambda root: registry_at(root).gc(), prepared_removal),
    "adopt": Work(registry_at, prepared_first_layout),
}


def seen(root: Path) -> list[tuple[str, str, bool]]:
    """What is there for whoever opens the registry: each branch, its weights, whether its files differ."""
    registry = registry_at(root)
    assert not (registry.models_dir / ".registry" / "journal.json").exists()
    models = registry.list()
    for model in models:
        assert sha256_of(Path(model.path)) == model.sha256, "never a half model"
        assert registry.resolve(model.ref) == model
    weights = {model.ref: model.sha256 for model in models}
    entries = registry.entries()
    assert {entry.ref for entry in entries} == set(weights), "every worktree has its weights"
    return [
        (
            str(entry.ref),
            weights[entry.ref],
            bool(registry.repository(entry.id).status(entry.ref.ref).changes),
        )
        for entry in entries
    ]


@pytest.mark.parametrize("name", WORK)
def test_killed_at_any_step_it_is_done_or_not_done_and_can_be_done_again(
    name: str, tmp_path: Path
) -> None:
    work = WORK[name]
    template, trial = tmp_path / "template", tmp_path / "trial"
    template.mkdir()
    (template / "Tiny.gguf").write_bytes(TINY)
    work.prepare(template)

    def fresh() -> None:
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(template, trial, symlinks=True)

    # What the first layout holds cannot be seen without adopting it.
    fresh()
    before = [] if name == "adopt" else seen(trial)
    fresh()
    n_steps = count_steps(lambda: work.do(trial), tmp_path / "tally")
    after = seen(trial)
    n_points = min(work.n_points, n_steps)
    for point in range(n_points):
        step = 1 + point * (n_steps - 1) // (n_points - 1)
        fresh()
        assert kill_at(lambda: work.do(trial), step, tmp_path / "tally"), f"step {step}"

        found = seen(trial)

        where = f"{name}, killed at step {step} of {n_steps}"
        if name == "commit" and found != after:
            found = [(ref, sha256, False) for ref, sha256, _ in found]
        assert found in (before, after), where
        if found != after:
            work.do(trial)
        assert seen(trial) == after, f"{where}, then done again"
        registry_at(trial).gc()
        assert seen(trial) == after, f"{where}, then collected"
