"""Two versions made one: what git merges, what a person has to, and how it is given up."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hyprstream.core.errors import Conflict, Corrupt, NotFound
from hyprstream.registry.blobs import BlobStore
from hyprstream.registry.repository import ModelRepository
from support.crashes import every_point
from support.repositories import blob, commit_entries, git

BASE = b"GGUF base" * 1000
OURS = b"GGUF ours" * 1000
THEIRS = b"GGUF theirs" * 1000


@pytest.fixture
def model(tmp_path: Path) -> ModelRepository:
    return new_model(tmp_path)


def new_model(directory: Path) -> ModelRepository:
    """A model with `main`, which has a worktree, and `dev` where that began."""
    repository = ModelRepository.create(directory / "model", BlobStore(directory / ".blobs"))
    repository.commit_files(
        "main",
        {"model.gguf": BASE, "manifest.toml": b"a = 1\n\n\nb = 1\n", "old.json": b"{}"},
        "first",
        parent=None,
    )
    repository.create_branch("dev", "main")
    repository.add_worktree("main")
    return repository


def change(model: ModelRepository, branch: str, **files: bytes | None) -> str:
    """Commit files (`__` in a name is a dot) to a branch and let its worktree follow."""
    commit = model.commit_files(
        branch,
        {name.replace("__", "."): content for name, content in files.items()},
        f"change {branch}",
        parent=model.branches()[branch],
    )
    if any(tree.branch == branch for tree in model.worktrees()):
        model.refresh_worktree(branch)
    return commit


def contents(model: ModelRepository, branch: str = "main") -> dict[str, bytes]:
    directory = model.worktree_path(branch)
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".git"
    }


def committed(model: ModelRepository, version: str) -> dict[str, bytes]:
    commit = model.resolve(version)
    return {path: model.read(commit, path) for path in model.files(commit)}


# -- without conflicts -------------------------------------------------------------------------------------------------


def test_a_branch_that_is_behind_moves_forward_and_its_files_follow(model: ModelRepository) -> None:
    commit = change(model, "dev", model__gguf=THEIRS)
    outcome = model.merge("main", "dev")
    assert (outcome.commit, outcome.is_fast_forward) == (commit, True)
    assert model.branches()["main"] == commit
    assert contents(model) == committed(model, "dev")
    assert not model.is_dirty("main")


def test_a_merge_of_what_is_there_already_changes_nothing(model: ModelRepository) -> None:
    commit = change(model, "main", a=b"1")
    for source in ("dev", "main"):
        outcome = model.merge("main", source)
        assert (outcome.commit, outcome.is_fast_forward, outcome.conflicts) == (commit, False, ())


def test_changes_of_different_files_and_of_different_lines_are_both_taken(
    model: ModelRepository,
) -> None:
    ours = change(model, "main", manifest__toml=b"a = 2\n\n\nb = 1\n", model__gguf=OURS)
    theirs = change(model, "dev", manifest__toml=b"a = 1\n\n\nb = 2\n", old__json=None, new=b"n")
    outcome = model.merge("main", "dev", message="bring dev in")
    assert outcome.commit == model.branches()["main"]
    assert (
        contents(model)
        == committed(model, "main")
        == {
            "manifest.toml": b"a = 2\n\n\nb = 2\n",
            "model.gguf": OURS,
            "new": b"n",
        }
    )
    version = model.log("main", 1)[0]
    assert (version.message, version.parents) == ("bring dev in", (ours, theirs))
    assert not model.is_dirty("main")


def test_a_branch_without_a_worktree_is_merged_too(model: ModelRepository) -> None:
    change(model, "main", a=b"1")
    change(model, "dev", b=b"2")
    outcome = model.merge("dev", "main")
    assert outcome.commit == model.branches()["dev"]
    assert committed(model, "dev")["a"] == b"1"


def test_how_a_branch_moves_forward_can_be_chosen(model: ModelRepository) -> None:
    theirs = change(model, "dev", b=b"2")
    outcome = model.merge("main", "dev", ff="never")
    assert not outcome.is_fast_forward
    assert model.log("main", 1)[0].parents[1] == theirs
    change(model, "dev", b=b"3")
    with pytest.raises(Conflict, match="has not"):
        model.merge("main", "dev", ff="only")


def test_new_weights_are_not_taken_for_renamed_ones(model: ModelRepository) -> None:
    change(model, "main", model__gguf=None, tuned__gguf=OURS)
    change(model, "dev", model__gguf=THEIRS)
    outcome = model.merge("main", "dev")
    assert outcome.conflicts == ("model.gguf",)
    assert contents(model)["tuned.gguf"] == OURS


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_worktree_with_changes_is_not_merged_into(model: ModelRepository) -> None:
    change(model, "dev", b=b"2")
    (model.worktree_path("main") / "note").write_text("mine")
    before = model.branches()
    with pytest.raises(Conflict, match="note"):
        model.merge("main", "dev")
    assert model.branches() == before


def test_versions_without_a_common_commit_do_not_merge(model: ModelRepository) -> None:
    change(model, "main", a=b"1")
    commit_entries(model.git.git_dir, {"x": ("100644", blob(model.git.git_dir, b"x"))}, "other")
    with pytest.raises(Conflict, match="no commit in common"):
        model.merge("main", "other")


def test_a_merge_with_what_no_model_may_hold_moves_nothing(model: ModelRepository) -> None:
    content = blob(model.git.git_dir, b"/etc/passwd")
    tree = git(model.git.git_dir, "mktree", stdin=f"120000 blob {content}\tlink\n".encode()).strip()
    commit = git(model.git.git_dir, "commit-tree", tree, "-p", "main", "-m", "link").strip()
    git(model.git.git_dir, "update-ref", "refs/heads/evil", commit)
    before = model.branches()
    for branch in ("main", "dev"):
        with pytest.raises(Exception, match="symbolic link"):
            model.merge(branch, "evil")
    assert model.branches() == before
    assert not model.is_dirty("main")


def test_a_merge_of_a_missing_version_is_not_found(model: ModelRepository) -> None:
    with pytest.raises(NotFound):
        model.merge("main", "nope")
    with pytest.raises(NotFound):
        model.merge("nope", "main")


def test_conflicts_without_a_worktree_change_nothing_and_say_what_to_do(
    model: ModelRepository,
) -> None:
    change(model, "main", model__gguf=OURS)
    theirs = change(model, "dev", model__gguf=THEIRS)
    with pytest.raises(Conflict, match=r"model\.gguf") as caught:
        model.merge("dev", "main")
    assert caught.value.hint == "hyprstream worktree add model dev, then merge again"
    assert model.branches()["dev"] == theirs


# -- conflicts ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def conflicting(model: ModelRepository) -> ModelRepository:
    """`main` and `dev` changed the same line and the same weights; `dev` added a file besides."""
    change(model, "main", manifest__toml=b"a = 2\n", model__gguf=OURS)
    change(model, "dev", manifest__toml=b"a = 3\n", model__gguf=THEIRS, new=b"n")
    return model


def test_conflicts_wait_in_the_worktree(conflicting: ModelRepository) -> None:
    before = conflicting.branches()
    outcome = conflicting.merge("main", "dev")
    assert outcome.commit is None
    assert outcome.conflicts == ("manifest.toml", "model.gguf")
    assert conflicting.branches() == before
    files = contents(conflicting)
    assert b"<<<<<<< " in files["manifest.toml"]
    assert files["model.gguf"] == OURS, "weights are never merged"
    assert files["new"] == b"n"
    status = conflicting.status("main")
    assert (status.merging, status.conflicts) == ("dev", ("manifest.toml", "model.gguf"))


def test_while_conflicts_wait_nothing_else_is_begun(conflicting: ModelRepository) -> None:
    conflicting.merge("main", "dev")
    with pytest.raises(Conflict, match="a merge waits"):
        conflicting.commit("main", "no")
    with pytest.raises(Conflict):
        conflicting.merge("main", "dev")
    with pytest.raises(Conflict):
        conflicting.remove_worktree("main")


def test_a_merge_given_up_leaves_everything_as_it_was(conflicting: ModelRepository) -> None:
    before = contents(conflicting)
    conflicting.merge("main", "dev")
    (conflicting.worktree_path("main") / "manifest.toml").write_text("half done")
    (conflicting.worktree_path("main") / "note").write_text("mine")
    conflicting.merge_abort("main")
    assert contents(conflicting) == {**before, "note": b"mine"}
    assert [change.path for change in conflicting.status("main").changes] == ["note"]
    (conflicting.worktree_path("main") / "note").unlink()
    assert not conflicting.is_dirty("main")
    with pytest.raises(Conflict, match="no merge waits"):
        conflicting.merge_abort("main")


def test_a_merge_goes_on_when_every_conflict_is_settled(conflicting: ModelRepository) -> None:
    parents = (conflicting.branches()["main"], conflicting.branches()["dev"])
    conflicting.merge("main", "dev")
    path = conflicting.worktree_path("main")
    (path / "manifest.toml").write_text("a = 5\n")
    with pytest.raises(Conflict, match=r"not settled: model\.gguf"):
        conflicting.merge_continue("main")
    (path / "model.gguf").unlink()
    (path / "model.gguf").write_bytes(b"GGUF averaged")
    commit = conflicting.merge_continue("main", "settled")
    assert conflicting.branches()["main"] == commit
    assert committed(conflicting, commit) == contents(conflicting)
    assert contents(conflicting)["model.gguf"] == b"GGUF averaged"
    version = conflicting.log("main", 1)[0]
    assert (version.message, version.parents) == ("settled", parents)
    assert conflicting.status("main").merging is None
    assert not conflicting.is_dirty("main")


@pytest.mark.parametrize(
    ("side", "weights", "text"), [("ours", OURS, b"a = 2\n"), ("theirs", THEIRS, b"a = 3\n")]
)
def test_one_side_can_be_taken_whole(
    conflicting: ModelRepository, side: str, weights: bytes, text: bytes
) -> None:
    assert side == "ours" or side == "theirs"
    conflicting.merge("main", "dev")
    conflicting.merge_continue("main", take=side)
    expected = {"manifest.toml": text, "model.gguf": weights, "new": b"n", "old.json": b"{}"}
    assert contents(conflicting) == committed(conflicting, "main") == expected


def test_taking_a_side_leaves_what_was_settled_by_hand(conflicting: ModelRepository) -> None:
    conflicting.merge("main", "dev")
    (conflicting.worktree_path("main") / "manifest.toml").write_text("a = 5\n")
    conflicting.merge_continue("main", take="theirs")
    assert committed(conflicting, "main")["manifest.toml"] == b"a = 5\n"
    assert committed(conflicting, "main")["model.gguf"] == THEIRS


@pytest.mark.parametrize(("side", "is_kept"), [("ours", False), ("theirs", True)])
def test_weights_one_side_deleted_are_kept_until_somebody_decides(
    model: ModelRepository, side: str, is_kept: bool
) -> None:
    assert side == "ours" or side == "theirs"
    change(model, "main", model__gguf=None)
    change(model, "dev", model__gguf=THEIRS)
    assert model.merge("main", "dev").conflicts == ("model.gguf",)
    with pytest.raises(Conflict, match="not settled"):
        model.merge_continue("main")
    model.merge_continue("main", take=side)
    assert ("model.gguf" in committed(model, "main")) == is_kept


def test_a_conflict_is_settled_by_deleting_the_file(conflicting: ModelRepository) -> None:
    conflicting.merge("main", "dev")
    for name in ("manifest.toml", "model.gguf"):
        (conflicting.worktree_path("main") / name).unlink()
    conflicting.merge_continue("main")
    assert list(committed(conflicting, "main")) == ["new", "old.json"]


def test_a_merge_whose_branch_moved_since_is_over(conflicting: ModelRepository) -> None:
    conflicting.merge("main", "dev")
    conflicting.git.run("update-ref", "refs/heads/main", conflicting.branches()["dev"])
    with pytest.raises(Conflict, match="no merge waits"):
        conflicting.merge_continue("main", take="ours")


def test_a_damaged_memory_of_a_merge_is_named(conflicting: ModelRepository) -> None:
    conflicting.merge("main", "dev")
    (conflicting.git.git_dir / "worktrees/main/merge.json").write_text("{}")
    with pytest.raises(Corrupt, match=r"merge\.json"):
        conflicting.status("main")


# -- crashes -----------------------------------------------------------------------------------------------------------


def in_copies(
    original: ModelRepository, target: Path, action: Callable[[ModelRepository], object]
) -> Callable[[], tuple[ModelRepository, Callable[[], object]]]:
    def prepare() -> tuple[ModelRepository, Callable[[], object]]:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(original.directory.parent, target)
        repository = ModelRepository(target / "model", BlobStore(target / ".blobs"))
        repository.status("main")  # the copies have other inodes
        return repository, lambda: action(repository)

    return prepare


def test_a_kill_at_any_step_of_a_merge_leaves_it_done_waiting_or_not_begun(tmp_path: Path) -> None:
    original = new_model(tmp_path / "original")
    change(original, "main", manifest__toml=b"a = 2\n", model__gguf=OURS)
    change(original, "dev", manifest__toml=b"a = 3\n", model__gguf=THEIRS, new=b"n")
    before = contents(original)
    prepare = in_copies(original, tmp_path / "copy", lambda model: model.merge("main", "dev"))
    repository = original

    def next_copy() -> Callable[[], object]:
        nonlocal repository
        repository, action = prepare()
        return action

    n_points = 0
    for n in every_point(next_copy):
        n_points += 1
        repository.recover()
        if repository.status("main").merging is None:
            assert contents(repository) == before, n
            assert not repository.is_dirty("main"), n
            repository.merge("main", "dev")
        if n % 2:
            repository.merge_abort("main")
            assert contents(repository) == before, n
            assert not repository.is_dirty("main"), n
        else:
            repository.merge_continue("main", take="theirs")
            assert contents(repository) == committed(repository, "dev"), n
    assert n_points > 10


@pytest.mark.parametrize("take", ["ours", None])
def test_a_kill_at_the_end_of_a_merge_leaves_it_done_or_waiting(
    tmp_path: Path, take: str | None
) -> None:
    original = new_model(tmp_path / "original")
    change(original, "main", model__gguf=OURS)
    change(original, "dev", model__gguf=THEIRS, new=b"n")
    prepare = in_copies(
        original,
        tmp_path / "copy",
        lambda model: (
            model.merge_continue("main", take="ours") if take else model.merge_abort("main")
        ),
    )
    repository = original

    def next_copy() -> Callable[[], object]:
        nonlocal repository
        repository, action = prepare()
        repository.merge("main", "dev")
        return action

    n_points = 0
    for n in every_point(next_copy):
        n_points += 1
        repository.recover()
        if repository.status("main").merging is not None:
            repository.merge_continue("main", take="ours") if take else repository.merge_abort(
                "main"
            )
        assert not repository.is_dirty("main"), n
        assert contents(repository) == committed(repository, "main"), n
        assert ("new" in contents(repository)) == (take is not None), n
    assert n_points > 2
