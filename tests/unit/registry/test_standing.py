"""What is remembered of a branch is never older than its files."""

import hashlib
from pathlib import Path

import pytest

from hyprstream.core.errors import Conflict, NotFound
from hyprstream.core.refs import ModelRef
from hyprstream.registry.lookup import Lookup
from hyprstream.registry.registry import NewFile, Registry
from support.registries import add, another, shards

TINY = ModelRef("tiny")


def other_process(registry: Registry) -> Registry:
    return Registry(registry.models_dir)


def test_a_branch_that_stands_is_not_looked_up_again(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = add(registry, "tiny")
    monkeypatch.delattr(Lookup, "model")
    assert registry.resolve(TINY) == model
    assert registry.canonical(TINY) == TINY
    assert registry.branches_of(TINY) == (TINY,)


def test_a_branch_that_another_process_moved_is(registry: Registry) -> None:
    add(registry, "tiny")
    for n in range(3):
        newer = add(other_process(registry), "tiny", another(n))
        assert registry.resolve(TINY) == newer


def test_a_branch_whose_references_were_packed_still_means_the_same(registry: Registry) -> None:
    model = add(registry, "tiny")
    registry.repository("tiny").git.run("pack-refs", "--all")
    assert registry.resolve(TINY) == model


def test_a_model_that_was_removed_or_renamed_is_not_there(registry: Registry) -> None:
    add(registry, "tiny")
    other_process(registry).rename("tiny", "small")
    with pytest.raises(NotFound):
        registry.resolve(TINY)
    assert registry.resolve(ModelRef("small")).ref == ModelRef("small")
    registry.remove(registry.removal("small"))
    with pytest.raises(NotFound):
        registry.resolve(ModelRef("small"))


def test_weights_that_are_gone_are_noticed(registry: Registry) -> None:
    model = add(registry, "tiny")
    Path(model.path).unlink()
    with pytest.raises(NotFound):
        registry.resolve(TINY)


def test_a_tag_of_the_same_name_is_noticed(registry: Registry) -> None:
    first = add(registry, "tiny")
    add(registry, "tiny", another(1))
    registry.resolve(TINY)
    registry.repository("tiny").git.run("update-ref", "refs/tags/main", first.commit)
    with pytest.raises(Conflict):
        registry.resolve(TINY)


def test_a_remote_branch_of_the_same_name_is_noticed(registry: Registry) -> None:
    first = add(registry, "tiny")
    add(registry, "tiny:origin/main", another(1))
    registry.resolve(ModelRef("tiny", "origin/main"))
    git = registry.repository("tiny").git
    git.run("update-ref", "refs/remotes/origin/main", first.commit)
    with pytest.raises(Conflict):
        registry.resolve(ModelRef("tiny", "origin/main"))


def test_a_branch_that_is_another_name_of_one_moves_with_it(registry: Registry) -> None:
    first = add(registry, "tiny")
    second = add(registry, "tiny", another(1))
    git = registry.repository("tiny").git
    git.run("symbolic-ref", "refs/heads/stable", "refs/heads/main")
    assert registry.resolve(ModelRef("tiny", "stable")).sha256 == second.sha256
    git.run("update-ref", "refs/heads/main", first.commit)
    assert registry.resolve(ModelRef("tiny", "stable")).sha256 == first.sha256


@pytest.mark.parametrize("i", [0, 1])
def test_a_shard_that_is_gone_is_noticed(registry: Registry, i: int) -> None:
    ref = ModelRef("tiny")
    with registry.staging(ref) as directory:
        new: list[NewFile] = []
        for name, content in shards().items():
            (directory / name).write_bytes(content)
            new.append(NewFile(directory / name, name, hashlib.sha256(content).hexdigest()))
        model = registry.add(ref, new, source="a test")
    assert registry.resolve(ref) == model

    sorted(Path(model.path).parent.iterdir())[i].resolve().unlink()

    with pytest.raises(NotFound):
        registry.resolve(ref)
