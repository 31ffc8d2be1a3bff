"""Fetching from and pushing to repositories of others, over `file://`."""

from pathlib import Path

import pytest

from hyprstream.core.errors import Conflict, Invalid, NotFound, SourceError
from hyprstream.core.versions import Pointer
from hyprstream.registry.blobs import BlobStore
from hyprstream.registry.git import GitProgress
from hyprstream.registry.lfs import encode_pointer
from hyprstream.registry.repository import ModelRepository
from hyprstream.registry.sources.base import Downloading, Uploading
from support.repositories import bare_repository, blob, commit_entries, git

WEIGHTS = b"GGUF" + b"weights" * 1000


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """An empty repository."""
    return bare_repository(tmp_path / "theirs.git")


def new_model(directory: Path, remote: Path | None = None) -> ModelRepository:
    repository = ModelRepository.create(directory / "model", BlobStore(directory / ".blobs"))
    if remote is not None:
        repository.add_remote("origin", remote.as_uri())
    return repository


@pytest.fixture
def model(tmp_path: Path, theirs: Path) -> ModelRepository:
    """A model with one commit, and `theirs` as its origin."""
    repository = new_model(tmp_path / "a", theirs)
    repository.commit_files("main", {"model.gguf": WEIGHTS, "a.json": b"{}"}, "first", parent=None)
    return repository


@pytest.fixture
def clone(tmp_path: Path, theirs: Path, model: ModelRepository) -> ModelRepository:
    """Another model with the same origin, which has the first one's commit."""
    list(model.push("origin", "main", set_upstream=True))
    repository = new_model(tmp_path / "b", theirs)
    list(repository.fetch("origin", "main"))
    repository.create_branch("main", "origin/main")
    return repository


# -- names and addresses -----------------------------------------------------------------------------------------------


def test_remotes_are_added_renamed_moved_and_removed(model: ModelRepository, theirs: Path) -> None:
    model.add_remote("hub", "https://huggingface.co/a/b")
    model.set_remote_url("hub", "git@example.org:a/b.git")
    model.rename_remote("hub", "mirror")
    assert model.remotes() == {"origin": theirs.as_uri(), "mirror": "git@example.org:a/b.git"}
    model.remove_remote("mirror")
    assert list(model.remotes()) == ["origin"]


def test_a_remote_is_named_once_and_found_by_its_name(model: ModelRepository, theirs: Path) -> None:
    with pytest.raises(Conflict):
        model.add_remote("origin", theirs.as_uri())
    for use in (model.remove_remote, lambda name: list(model.fetch(name))):
        with pytest.raises(NotFound) as caught:
            use("nope")
        assert caught.value.hint == "it has origin"


@pytest.mark.parametrize("name", ["-x", "a b", "a/b", "", "a.b", "x" * 65])
def test_a_name_that_git_would_read_otherwise_is_refused(model: ModelRepository, name: str) -> None:
    with pytest.raises(Invalid):
        model.add_remote(name, "https://example.org/a")


def test_an_address_with_a_password_is_stored_nowhere(model: ModelRepository) -> None:
    for change in (
        lambda url: model.add_remote("hub", url),
        lambda url: model.set_remote_url("origin", url),
    ):
        with pytest.raises(Invalid):
            change("https://user:s3cret@example.org/a")
    assert "s3cret" not in (model.git.git_dir / "config").read_text()


def test_an_address_that_got_into_the_configuration_otherwise_is_refused(
    model: ModelRepository, tmp_path: Path
) -> None:
    git(model.git.git_dir, "config", "remote.origin.url", f"ext::touch {tmp_path / 'ran'}")
    with pytest.raises(Invalid):
        list(model.fetch("origin"))
    assert not (tmp_path / "ran").exists()


# -- pushing and fetching ----------------------------------------------------------------------------------------------


def test_what_is_pushed_is_fetched_with_its_weights(
    model: ModelRepository, clone: ModelRepository
) -> None:
    commit = model.branches()["main"]
    assert clone.branches() == {"main": commit}
    assert clone.read(commit, "model.gguf") == WEIGHTS
    clone.add_worktree("main")
    assert (clone.worktree_path("main") / "model.gguf").read_bytes() == WEIGHTS
    assert git(clone.git.git_dir, "fsck", "--strict") == ""


def test_both_ways_tell_how_far_they_are(
    model: ModelRepository, tmp_path: Path, theirs: Path
) -> None:
    pushed = list(model.push("origin", "main"))
    fetched = list(new_model(tmp_path / "b", theirs).fetch("origin"))
    for events, kind in ((pushed, Uploading), (fetched, Downloading)):
        assert any(isinstance(event, GitProgress) for event in events)
        last = [event for event in events if isinstance(event, kind)][-1]
        assert (last.completed, last.total) == (len(WEIGHTS), len(WEIGHTS))


def test_a_fetch_moves_no_branch_of_ours(model: ModelRepository, clone: ModelRepository) -> None:
    first = model.branches()["main"]
    second = model.commit_files("main", {"b": b"1"}, "second", parent=first)
    list(model.push("origin", "main"))
    list(clone.fetch("origin"))
    assert clone.branches() == {"main": first}
    assert clone.resolve("origin/main") == second
    assert clone.merge("main", "origin/main").is_fast_forward


def test_the_large_files_can_be_left_for_later(
    model: ModelRepository, tmp_path: Path, theirs: Path
) -> None:
    list(model.push("origin", "main"))
    other = new_model(tmp_path / "b", theirs)
    list(other.fetch("origin", large_files=False))
    commit = other.resolve("origin/main")
    pointer = other.files(commit)["model.gguf"].pointer
    assert pointer is not None
    assert not other.blobs.has(pointer.sha256)
    list(other.download("origin", commit))
    assert other.read(commit, "model.gguf") == WEIGHTS


def test_a_depth_leaves_older_commits_where_they_are(
    model: ModelRepository, tmp_path: Path, theirs: Path
) -> None:
    model.commit_files("main", {"b": b"1"}, "second", parent=model.branches()["main"])
    list(model.push("origin", "main"))
    other = new_model(tmp_path / "b", theirs)
    list(other.fetch("origin", "main", depth=1))
    assert [version.message for version in other.log("origin/main")] == ["second"]
    with pytest.raises(Invalid):
        list(other.fetch("origin", "main", depth=0))


def test_tags_come_along_and_do_not_move(model: ModelRepository, clone: ModelRepository) -> None:
    first = model.branches()["main"]
    second = model.commit_files("main", {"b": b"1"}, "second", parent=first)
    list(model.push("origin", "main"))
    theirs = Path(model.remotes()["origin"].removeprefix("file://"))
    for tag in ("v1", "v2"):
        git(theirs, "tag", tag, second)
    clone.create_tag("v1", first)
    list(clone.fetch("origin"))
    assert clone.tags() == {"v1": first, "v2": second}


def test_status_says_how_far_a_branch_and_its_remote_are_apart(
    model: ModelRepository, clone: ModelRepository
) -> None:
    assert (model.status("main").upstream, model.status("main").n_ahead) == ("origin/main", 0)
    model.commit_files("main", {"b": b"1"}, "second", parent=model.branches()["main"])
    assert (model.status("main").n_ahead, model.status("main").n_behind) == (1, 0)
    clone.commit_files("main", {"c": b"1"}, "other", parent=clone.branches()["main"])
    list(clone.push("origin", "main"))
    list(model.fetch("origin"))
    assert (model.status("main").n_ahead, model.status("main").n_behind) == (1, 1)
    assert clone.status("main").upstream is None
    clone.set_upstream("main", "origin")
    assert clone.status("main").upstream == "origin/main"


def test_a_push_over_what_somebody_else_pushed_is_a_conflict_even_by_force(
    model: ModelRepository, clone: ModelRepository
) -> None:
    theirs = clone.commit_files("main", {"c": b"1"}, "other", parent=clone.branches()["main"])
    list(clone.push("origin", "main"))
    ours = model.commit_files("main", {"b": b"1"}, "second", parent=model.branches()["main"])
    for force in (False, True):
        with pytest.raises(Conflict, match="does not take it"):
            list(model.push("origin", "main", force=force))
    list(model.fetch("origin"))
    assert model.resolve("origin/main") == theirs
    with pytest.raises(Conflict):
        list(model.push("origin", "main"))
    list(model.push("origin", "main", force=True))
    assert model.resolve("origin/main") == ours


def test_hooks_of_a_repository_on_this_disk_do_not_run(
    model: ModelRepository, theirs: Path, tmp_path: Path
) -> None:
    for hook in ("pre-receive", "update", "post-receive", "post-update", "reference-transaction"):
        path = theirs / "hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
        path.chmod(0o755)
    list(model.push("origin", "main"))
    list(new_model(tmp_path / "b", theirs).fetch("origin"))
    assert not (tmp_path / "ran").exists()


def test_a_remote_without_the_branch_or_the_repository_is_named(
    model: ModelRepository, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match="no such branch"):
        list(model.fetch("origin", "nope"))
    model.set_remote_url("origin", (tmp_path / "gone").as_uri())
    with pytest.raises(SourceError, match="no repository"):
        list(model.fetch("origin"))
    with pytest.raises(Invalid):
        list(model.fetch("origin", "--upload-pack=x"))


def test_a_remote_that_lacks_the_weights_of_its_pointers_says_so(
    tmp_path: Path, theirs: Path
) -> None:
    pointer = encode_pointer(Pointer("0" * 64, 100))
    commit_entries(theirs, {"model.gguf": ("100644", blob(theirs, pointer))})
    with pytest.raises(SourceError):
        list(new_model(tmp_path / "b", theirs).fetch("origin"))


@pytest.mark.parametrize("mode", ["120000", "160000"])
def test_a_remote_with_what_no_model_may_hold_is_refused(
    tmp_path: Path, theirs: Path, mode: str
) -> None:
    oid = blob(theirs, b"/etc/passwd") if mode == "120000" else "1" * 40
    commit_entries(theirs, {"weights": (mode, oid)})
    model = new_model(tmp_path / "b", theirs)
    with pytest.raises(Invalid, match="'weights' is a"):
        list(model.fetch("origin"))
    model.create_branch("main", "origin/main")
    with pytest.raises(Invalid):
        model.add_worktree("main")
    assert not model.worktree_path("main").exists()


@pytest.mark.parametrize("size", [5, 1 << 50])
def test_a_pointer_that_lies_about_the_size_of_a_file_that_is_here_is_refused(
    model: ModelRepository, clone: ModelRepository, theirs: Path, size: int
) -> None:
    weights = model.files("main")["model.gguf"].pointer
    assert weights is not None
    pointer = blob(theirs, encode_pointer(Pointer(weights.sha256, size)))
    commit_entries(theirs, {"model.gguf": ("100644", pointer)}, branch="lie")

    with pytest.raises(Invalid, match=f"has {size} bytes; it has {len(WEIGHTS)}"):
        list(clone.fetch("origin", "lie"))
