"""A collection deletes what nobody needs and nothing else; a verification finds every broken byte and mends what it can."""

from collections import deque
from pathlib import Path

import pytest

from hyprstream.core.errors import Conflict
from hyprstream.core.refs import ModelRef
from hyprstream.registry.entries import Soundness, VerifyEvent
from hyprstream.registry.pull import pull
from hyprstream.registry.registry import Registry
from hyprstream.registry.sources.base import Downloading
from support.registries import SHA256, TINY, add, another, snapshot, worktree


def found(registry: Registry, *names: str) -> list[tuple[str, Soundness]]:
    events: list[VerifyEvent] = list(registry.verify(names or None))
    return [(event.model, event.soundness) for event in events]


def damage(registry: Registry, sha256: str) -> None:
    """Flip one bit of a blob, as a disk does."""
    path = registry.blobs.path(sha256)
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    path.chmod(0o444)


def test_a_collection_keeps_what_any_version_needs(registry: Registry) -> None:
    add(registry, "tiny")
    add(registry, "tiny", another(2))
    repository = registry.repository("tiny")
    repository.create_tag("v2", "main")
    add(registry, "tiny", another(3))

    report = registry.gc()

    assert (report.n_blobs, report.freed_bytes) == (0, 0)
    assert len(list(registry.blobs)) == 3
    assert report.kept_bytes == sum(len(data) for data in (TINY, another(2), another(3)))


def test_a_dry_run_counts_and_deletes_nothing(registry: Registry) -> None:
    add(registry, "tiny")
    add(registry, "other", another(2))
    registry.remove(registry.removal("other"))

    dry = registry.gc(dry_run=True)

    assert (dry.is_dry_run, dry.n_blobs, dry.n_removed_models) == (True, 1, 1)
    assert len(list(registry.blobs)) == 2
    registry.undo()
    assert registry.names() == ["other", "tiny"]


def test_a_collection_frees_what_the_dry_run_promised(registry: Registry) -> None:
    add(registry, "tiny")
    add(registry, "other", another(2))
    registry.remove(registry.removal("other"))
    promised = registry.gc(dry_run=True)
    before = snapshot(registry)

    report = registry.gc()

    assert (report.n_blobs, report.freed_bytes) == (promised.n_blobs, promised.freed_bytes)
    assert list(registry.blobs) == [SHA256]
    assert not list((registry.models_dir / ".trash").iterdir())
    assert snapshot(registry) == before
    assert registry.resolve(ModelRef("tiny")).sha256 == SHA256


def test_a_collection_leaves_files_in_place_alone(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(TINY)
    list(pull(registry, str(path), in_place=True))
    registry.gc()
    assert registry.resolve(ModelRef("mine")).path == str(path)

    registry.remove(registry.removal("mine"))
    assert registry.gc().n_blobs == 1
    assert path.read_bytes() == TINY


def test_a_clone_that_is_under_way_loses_nothing_to_a_collection(
    registry: Registry, tmp_path: Path
) -> None:
    upstream = Registry(tmp_path / "upstream")
    add(upstream, "tiny")
    url = upstream.repository("tiny").git.git_dir.as_uri()
    events = registry.clone(url)
    while not (isinstance(event := next(events), Downloading) and event.file == SHA256):
        pass

    registry.gc()

    deque(events, maxlen=0)
    assert registry.resolve(ModelRef("tiny")).sha256 == SHA256
    assert registry.gc().n_blobs == 0


def test_a_collection_waits_for_nobody_who_changes_a_model(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyprstream.registry.maintenance.WAIT_SECONDS", 0.0)
    add(registry, "tiny")

    with registry.repository("tiny").git.exclusive(), pytest.raises(Conflict, match="is changing"):
        registry.gc()


def test_left_overs_of_pulls_that_are_done_are_collected_and_unfinished_ones_are_not(
    registry: Registry,
) -> None:
    add(registry, "tiny")
    incoming = registry.models_dir / ".incoming"
    for name in ("tiny@main", "other@main"):
        (incoming / name).mkdir()
        (incoming / name / f"{'0' * 64}.part").write_bytes(b"half")
    (incoming / f"{SHA256}.part").write_bytes(b"half")
    (incoming / f"{'1' * 64}.part").write_bytes(b"half")

    report = registry.gc()

    assert (report.n_transfers, report.freed_bytes) == (2, 8)
    assert sorted(path.name for path in incoming.iterdir() if path.suffix != ".lock") == [
        f"{'1' * 64}.part",
        "other@main",
    ]


def test_sound_files_are_read_once_each(registry: Registry) -> None:
    add(registry, "tiny")
    add(registry, "same")
    add(registry, "other", another(2))

    assert found(registry) == [("other", Soundness.SOUND), ("same", Soundness.SOUND)]
    assert found(registry, "tiny") == [("tiny", Soundness.SOUND)]


def test_a_broken_file_is_fetched_again_from_the_remote_and_worktrees_get_it(
    registry: Registry, tmp_path: Path
) -> None:
    upstream = Registry(tmp_path / "upstream")
    add(upstream, "tiny")
    list(registry.clone(upstream.repository("tiny").git.git_dir.as_uri()))
    damage(registry, SHA256)

    assert found(registry) == [("tiny", Soundness.REPAIRED)]

    assert registry.blobs.path(SHA256).read_bytes() == TINY
    assert (worktree(registry, "tiny") / "model.gguf").read_bytes() == TINY
    assert not registry.entries()[0].is_dirty
    assert found(registry) == [("tiny", Soundness.SOUND)]


def test_a_broken_file_is_fetched_again_from_where_it_was_pulled(
    registry: Registry, tmp_path: Path
) -> None:
    path = tmp_path / "Tiny.gguf"
    path.write_bytes(TINY)
    list(pull(registry, str(path)))
    damage(registry, SHA256)

    assert found(registry) == [("tiny", Soundness.REPAIRED)]
    assert registry.blobs.path(SHA256).read_bytes() == TINY


def test_a_broken_file_nobody_has_is_set_aside_and_never_served(registry: Registry) -> None:
    add(registry, "tiny", source="hf:nobody")
    damage(registry, SHA256)

    (event,) = registry.verify()

    assert event.soundness is Soundness.BROKEN and event.message
    assert registry.list() == []
    assert (registry.blobs.directory / "broken" / SHA256).exists()
    assert [event.soundness for event in registry.verify()] == [Soundness.MISSING]


def test_what_was_never_fetched_is_not_missed(registry: Registry, tmp_path: Path) -> None:
    upstream = Registry(tmp_path / "upstream")
    add(upstream, "tiny")
    add(upstream, "tiny:v2", another(2))
    list(registry.clone(upstream.repository("tiny").git.git_dir.as_uri()))

    assert found(registry) == [("tiny", Soundness.SOUND)]
