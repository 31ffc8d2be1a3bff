"""A clone is the remote's model, whole, once; an update brings it to where the remote is, and loses no work."""

from collections.abc import Generator
from pathlib import Path

import pytest

from hyprstream.core.errors import Conflict, Invalid, NotFound, SourceError
from hyprstream.core.refs import ModelRef
from hyprstream.registry.events import Cloned, Updated
from hyprstream.registry.registry import Registry
from hyprstream.registry.sources.base import Downloading, Event, Noted, Resolving
from support.registries import SHA256, TINY, add, another, messages, snapshot, worktree


@pytest.fixture
def upstream(tmp_path: Path) -> Registry:
    """Somebody else's registry, with a model of three branches."""
    upstream = Registry(tmp_path / "upstream")
    add(upstream, "tiny")
    add(upstream, "tiny:v2", another(2))
    add(upstream, "tiny:lora/a", another(3))
    upstream.repository("tiny").create_tag("v1.0", "main")
    return upstream


@pytest.fixture
def url(upstream: Registry) -> str:
    return upstream.repository("tiny").git.git_dir.as_uri()


def cloned(events: Generator[Event]) -> Cloned:
    *_, last = events
    assert isinstance(last, Cloned)
    return last


def updated(events: Generator[Event]) -> Updated:
    *_, last = events
    assert isinstance(last, Updated)
    return last


def commit(registry: Registry, ref: str, file: str, text: str) -> str:
    """One more commit, made in a worktree."""
    (worktree(registry, ref) / file).write_text(text)
    parsed = ModelRef.parse(ref)
    return registry.repository(parsed.name).commit(parsed.ref, f"{file}: {text}")


def test_a_clone_has_every_branch_and_the_files_of_one(
    registry: Registry, upstream: Registry, url: str
) -> None:
    events = list(registry.clone(url))

    assert isinstance(events[0], Resolving) and isinstance(events[-1], Cloned)
    assert {event.file for event in events if isinstance(event, Downloading)} >= {SHA256}
    assert events[-1].is_new
    (entry,) = registry.entries()
    assert (entry, str(entry.ref), entry.source) == (events[-1].entry, "tiny", url)
    theirs = upstream.repository("tiny")
    assert registry.repository("tiny").branches() == theirs.branches()
    assert registry.repository("tiny").tags() == theirs.tags()
    model = registry.resolve(ModelRef("tiny"))
    assert Path(model.path).read_bytes() == TINY
    assert model.commit == upstream.resolve(ModelRef("tiny")).commit
    assert model.id != upstream.id_of("tiny"), "a UUID is a registry's own"
    assert list(registry.blobs) == [SHA256]
    assert messages(registry) == [f"clone tiny from {url}"]


def test_a_branch_whose_files_were_not_fetched_says_so_instead_of_another_branch(
    registry: Registry, url: str
) -> None:
    list(registry.clone(url))

    with pytest.raises(NotFound, match="is not here") as error:
        registry.resolve(ModelRef("tiny", "v2"))
    assert error.value.hint == "hyprstream pull tiny v2"
    assert registry.resolve(ModelRef("tiny", "v1.0")).sha256 == SHA256

    cloned(registry.clone(url, branch="v2"))
    assert registry.resolve(ModelRef("tiny", "v2")).facts.name == "Tiny 2"


def test_a_full_clone_has_the_files_of_every_branch(registry: Registry, url: str) -> None:
    list(registry.clone(url, full=True, name="all"))

    assert [str(model.ref) for model in registry.list()] == ["all:lora/a", "all", "all:v2"]
    assert registry.resolve(ModelRef("all", "lora/a")).facts.name == "Tiny 3"


def test_another_branch_and_a_name_of_ones_own_can_be_chosen(registry: Registry, url: str) -> None:
    last = cloned(registry.clone(url, name="mine", branch="lora/a"))

    assert last.entry.ref == ModelRef("mine", "lora/a")
    assert registry.repository("mine").git.head_branch == "lora/a"


def test_a_shallow_clone_has_so_many_commits(
    registry: Registry, upstream: Registry, url: str
) -> None:
    for i in range(3):
        commit(upstream, "tiny", "README.md", str(i))

    list(registry.clone(url, depth=2))

    assert len(registry.repository("tiny").log("main", 10)) == 2
    assert registry.resolve(ModelRef("tiny")).sha256 == SHA256


def test_the_same_clone_again_changes_nothing(registry: Registry, url: str) -> None:
    first = cloned(registry.clone(url))
    log = messages(registry)

    again = cloned(registry.clone(f"{url}/"))

    assert (again.is_new, again.entry) == (False, first.entry)
    assert messages(registry) == log


def test_a_name_another_origin_has_is_refused(
    registry: Registry, upstream: Registry, url: str
) -> None:
    add(upstream, "other", another(4))
    list(registry.clone(url))
    add(registry, "local", another(5))

    for name in ("tiny", "local"):
        with pytest.raises(Conflict, match=f"{name} is registered already"):
            list(registry.clone(upstream.repository("other").git.git_dir.as_uri(), name=name))


def test_a_branch_the_remote_lacks_is_not_found_and_leaves_nothing(
    registry: Registry, url: str
) -> None:
    with pytest.raises(NotFound, match="has no branch 'v9'") as error:
        list(registry.clone(url, branch="v9"))

    assert error.value.hint == "it has lora/a, main, v2"
    assert registry.names() == []
    assert cloned(registry.clone(url)).is_new


def test_a_remote_that_is_not_there_is_a_source_error(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        list(registry.clone((tmp_path / "nothing.git").as_uri()))
    assert registry.names() == []


@pytest.mark.parametrize(
    "url", ["https://user:secret@a.example/m.git", "ext::sh -c id", "--upload-pack=id", "git://a/b"]
)
def test_an_address_that_could_do_harm_is_refused(registry: Registry, url: str) -> None:
    with pytest.raises(Invalid) as error:
        list(registry.clone(url))
    assert "secret" not in error.value.message


def test_large_files_that_are_missing_at_the_remote_are_a_source_error_and_a_clone_goes_on_later(
    registry: Registry, upstream: Registry, url: str
) -> None:
    blob = upstream.blobs.path(SHA256)
    aside = blob.with_name("aside")
    blob.rename(aside)
    with pytest.raises(SourceError, match="lacks 1 of 1 large files"):
        list(registry.clone(url))
    assert (registry.names(), registry.list()) == ([], [])

    aside.rename(blob)
    events = list(registry.clone(url))

    assert cloned(iter(events)).is_new  # type: ignore[arg-type]
    assert "history" not in {e.file for e in events if isinstance(e, Downloading)}, "it was kept"


def test_a_clone_that_is_left_is_continued(registry: Registry, url: str) -> None:
    events = registry.clone(url)
    while not (isinstance(event := next(events), Downloading) and event.file == SHA256):
        pass
    events.close()
    assert registry.names() == []

    assert cloned(registry.clone(url)).is_new
    assert registry.resolve(ModelRef("tiny")).sha256 == SHA256


def test_what_cannot_be_served_is_registered_with_a_note(
    registry: Registry, upstream: Registry, url: str
) -> None:
    repository = upstream.repository("tiny")
    repository.commit_files(
        "main",
        {"model.gguf": None, "manifest.toml": None, "notes.txt": b"none here"},
        "another format",
        parent=repository.branches()["main"],
    )

    events = list(registry.clone(url))

    assert [e.message for e in events if isinstance(e, Noted)] == [
        "tiny:main cannot be served: it holds notes.txt, and llama.cpp needs a GGUF"
    ]
    assert registry.list() == []
    assert [entry.has_weights for entry in registry.entries()] == [False]


def test_a_model_whose_files_were_removed_is_cloned_again_with_its_uuid(
    registry: Registry, url: str
) -> None:
    first = cloned(registry.clone(url))
    registry.remove(registry.removal("tiny"), files_only=True)

    again = cloned(registry.clone(url))

    assert again.is_new and again.entry.id == first.entry.id


def test_a_clone_and_its_removal_are_taken_back(registry: Registry, url: str) -> None:
    list(registry.clone(url))
    before = snapshot(registry)

    registry.undo()
    assert snapshot(registry) == []
    registry.undo()
    assert snapshot(registry) == before


# --- updates ----------------------------------------------------------------------------------------------------------


def test_an_update_moves_the_branch_its_files_and_what_is_served(
    registry: Registry, upstream: Registry, url: str
) -> None:
    old = cloned(registry.clone(url)).entry.commit
    new = add(upstream, "tiny", another(7)).commit

    last = updated(registry.update("tiny"))

    assert last == Updated(ModelRef("tiny"), old, new)
    assert registry.resolve(ModelRef("tiny")).facts.name == "Tiny 7"
    assert (worktree(registry, "tiny") / "model.gguf").read_bytes() == another(7)
    assert updated(registry.update("tiny")) == Updated(ModelRef("tiny"), new, new)
    assert len(messages(registry)) == 2


def test_an_update_is_taken_back(registry: Registry, upstream: Registry, url: str) -> None:
    list(registry.clone(url))
    before = snapshot(registry)
    add(upstream, "tiny", another(7))
    list(registry.update("tiny"))

    registry.undo()

    assert snapshot(registry) == before
    assert (worktree(registry, "tiny") / "model.gguf").read_bytes() == TINY


def test_a_branch_that_is_new_at_the_remote_comes_with_a_worktree(
    registry: Registry, upstream: Registry, url: str
) -> None:
    list(registry.clone(url))
    new = add(upstream, "tiny:v3", another(8)).commit

    assert updated(registry.update("tiny", "origin", "v3")) == Updated(
        ModelRef("tiny", "v3"), "", new
    )
    assert registry.resolve(ModelRef("tiny", "v3")).facts.name == "Tiny 8"


def test_a_branch_that_was_not_fetched_with_the_clone_is_fetched_by_an_update(
    registry: Registry, url: str
) -> None:
    list(registry.clone(url))

    last = updated(registry.update("tiny", branch="v2"))

    assert last.old == last.new
    assert [str(model.ref) for model in registry.list()] == ["tiny", "tiny:v2"]


def test_work_that_is_not_committed_stops_an_update_before_the_network(
    registry: Registry, upstream: Registry, url: str
) -> None:
    list(registry.clone(url))
    (worktree(registry, "tiny") / "notes.txt").write_text("mine")
    add(upstream, "tiny", another(7))

    with pytest.raises(Conflict, match="not committed"):
        list(registry.update("tiny"))

    assert (worktree(registry, "tiny") / "notes.txt").read_text() == "mine"


def test_where_both_sides_have_commits_they_are_merged(
    registry: Registry, upstream: Registry, url: str
) -> None:
    list(registry.clone(url))
    ours = commit(registry, "tiny", "ours.txt", "ours")
    theirs = commit(upstream, "tiny", "theirs.txt", "theirs")

    new = updated(registry.update("tiny")).new

    (version,) = registry.repository("tiny").log(new, 1)
    assert set(version.parents) == {ours, theirs}
    assert {"ours.txt", "theirs.txt"} <= {p.name for p in worktree(registry, "tiny").iterdir()}


def test_or_our_commits_are_put_on_top_of_theirs(
    registry: Registry, upstream: Registry, url: str
) -> None:
    list(registry.clone(url))
    commit(registry, "tiny", "ours.txt", "1")
    commit(registry, "tiny", "ours.txt", "2")
    theirs = commit(upstream, "tiny", "theirs.txt", "theirs")

    updated(registry.update("tiny", rebase=True))

    log = registry.repository("tiny").log("main", 10)
    assert [version.message for version in log[:3]] == [
        "ours.txt: 2",
        "ours.txt: 1",
        "theirs.txt: theirs",
    ]
    assert log[1].parents == (theirs,)
    assert (worktree(registry, "tiny") / "ours.txt").read_text() == "2"
    assert not registry.entries()[0].is_dirty


@pytest.mark.parametrize("is_rebase", [False, True])
def test_what_both_sides_changed_is_a_conflict_and_nothing_is_lost(
    registry: Registry, upstream: Registry, url: str, is_rebase: bool
) -> None:
    list(registry.clone(url))
    ours = commit(registry, "tiny", "notes.txt", "ours")
    commit(upstream, "tiny", "notes.txt", "theirs")

    with pytest.raises(Conflict, match=r"both sides changed notes\.txt"):
        list(registry.update("tiny", rebase=is_rebase))

    assert registry.resolve(ModelRef("tiny")).commit == ours


def test_a_model_without_a_remote_has_nothing_to_be_updated_from(registry: Registry) -> None:
    add(registry, "tiny")

    with pytest.raises(NotFound, match="no remote 'origin'") as error:
        list(registry.update("tiny"))
    assert error.value.hint == "hyprstream remote add tiny origin URL"
