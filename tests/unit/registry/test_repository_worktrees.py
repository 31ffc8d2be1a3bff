"""The files of branches on disk: as committed, cheap, and whole whatever happens."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from hyprstream.core.errors import Conflict, Corrupt, Invalid, NotFound
from hyprstream.core.versions import ChangeKind
from hyprstream.registry.blobs import BlobStore
from hyprstream.registry.repository import ModelRepository
from support.crashes import every_point
from support.repositories import git

WEIGHTS = b"GGUF" + bytes(range(256)) * 16


@pytest.fixture
def model(tmp_path: Path) -> ModelRepository:
    """A model with one commit on `main`, and its worktree."""
    return new_model(tmp_path)


def new_model(directory: Path) -> ModelRepository:
    repository = ModelRepository.create(directory / "model", BlobStore(directory / ".blobs"))
    repository.commit_files(
        "main",
        {"model.gguf": WEIGHTS, "manifest.toml": b"a = 1\n", "evals/x.json": b"{}"},
        "first",
        parent=None,
    )
    repository.add_worktree("main")
    return repository


def contents(directory: Path) -> dict[str, bytes]:
    """What a worktree holds, by path."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".git"
    }


def committed(model: ModelRepository, version: str) -> dict[str, bytes]:
    commit = model.resolve(version)
    return {path: model.read(commit, path) for path in model.files(commit)}


# -- making and removing -----------------------------------------------------------------------------------------------


def test_a_worktree_has_the_files_themselves(model: ModelRepository) -> None:
    path = model.worktree_path("main")
    assert contents(path) == committed(model, "main")
    assert stat.S_IMODE((path / "manifest.toml").stat().st_mode) == 0o644
    assert not model.is_dirty("main")
    assert model.status("main").changes == ()


def test_plain_git_in_a_worktree_sees_nothing_to_commit(model: ModelRepository) -> None:
    path = model.worktree_path("main")
    assert git(path, "status", "--short", "--branch") == "## main\n"
    assert str(path) in git(path, "worktree", "list")
    assert git(path, "fsck", "--strict") == ""


def test_ten_branches_share_one_copy_of_the_weights(model: ModelRepository) -> None:
    weights = model.files(model.resolve("main"))["model.gguf"].pointer
    assert weights is not None
    for i in range(9):
        model.create_branch(f"lora/{i}", "main")
        model.add_worktree(f"lora/{i}")
    trees = model.worktrees()
    assert [tree.branch for tree in trees] == [*(f"lora/{i}" for i in range(9)), "main"]
    for tree in trees:
        assert model.blobs.shares(weights.sha256, Path(tree.path) / "model.gguf")


def test_lists_and_looks_start_no_process(
    model: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = model.files(model.resolve("main"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert [tree.branch for tree in model.worktrees()] == ["main"]
    assert not model.is_dirty("main")
    assert model.worktree_files("main") == files


def test_a_branch_without_a_worktree_is_not_found(model: ModelRepository) -> None:
    model.create_branch("dev", "main")
    for ask in (model.worktree, model.is_dirty, model.remove_worktree, model.refresh_worktree):
        with pytest.raises(NotFound, match="no worktree"):
            ask("dev")
    with pytest.raises(NotFound, match="no branch 'nope'"):
        model.add_worktree("nope")


def test_a_worktree_is_made_once_and_not_over_somebodys_files(
    model: ModelRepository,
) -> None:
    with pytest.raises(Conflict):
        model.add_worktree("main")
    model.create_branch("dev", "main")
    path = model.worktree_path("dev")
    path.mkdir(parents=True)
    (path / "precious").write_text("mine")
    with pytest.raises(Conflict):
        model.add_worktree("dev")
    assert contents(path) == {"precious": b"mine"}


def test_a_worktree_whose_weights_are_not_here_is_not_begun(model: ModelRepository) -> None:
    weights = model.files(model.resolve("main"))["model.gguf"].pointer
    assert weights is not None
    model.remove_worktree("main")
    model.blobs.remove(weights.sha256)
    with pytest.raises(NotFound, match=r"model\.gguf"):
        model.add_worktree("main")
    assert not model.worktree_path("main").exists()


def test_removing_a_worktree_keeps_the_branch_and_refuses_to_lose_work(
    model: ModelRepository,
) -> None:
    model.create_branch("lora/medical", "main")
    model.add_worktree("lora/medical")
    path = model.worktree_path("lora/medical")
    (path / "note").write_text("precious")
    with pytest.raises(Conflict, match="note"):
        model.remove_worktree("lora/medical")
    with pytest.raises(Conflict, match="worktree"):
        model.delete_branch("lora/medical", force=True)
    model.remove_worktree("lora/medical", force=True)
    assert not path.parent.exists()
    assert "lora/medical" in model.branches()
    model.add_worktree("lora/medical")
    assert not model.is_dirty("lora/medical")


def test_a_damaged_record_is_named_and_left_out_of_lists(model: ModelRepository) -> None:
    (model.git.git_dir / "worktrees/main/written.json").write_text("{}")
    assert model.worktrees() == []
    with pytest.raises(Corrupt) as caught:
        model.worktree("main")
    assert "remove --force" in str(caught.value.hint)
    model.remove_worktree("main", force=True)
    model.add_worktree("main")
    assert not model.is_dirty("main")


def test_a_model_that_was_moved_goes_on_working(model: ModelRepository, tmp_path: Path) -> None:
    shutil.move(model.directory, tmp_path / "renamed")
    moved = ModelRepository(tmp_path / "renamed", model.blobs)
    path = moved.worktree_path("main")
    assert not moved.is_dirty("main")
    (path / "manifest.toml").write_text("a = 2\n")
    moved.commit("main", "after the move")
    assert git(path, "status", "--short") == ""


# -- changes -----------------------------------------------------------------------------------------------------------


def test_every_change_makes_a_worktree_dirty(model: ModelRepository) -> None:
    path = model.worktree_path("main")
    (path / "new").write_text("1")
    (path / "manifest.toml").write_text("a = 2\n")
    (path / "evals/x.json").unlink()
    assert model.is_dirty("main")
    kinds = {change.path: change.kind for change in model.status("main").changes}
    assert kinds == {
        "evals/x.json": ChangeKind.DELETED,
        "manifest.toml": ChangeKind.MODIFIED,
        "new": ChangeKind.ADDED,
    }


def test_a_change_of_the_same_size_is_seen_at_once(model: ModelRepository) -> None:
    path = model.worktree_path("main") / "manifest.toml"
    for i in range(20):
        path.write_text(f"a = {i % 10}\n")
        if f"a = {i % 10}\n" != "a = 1\n":
            assert model.is_dirty("main"), i
            model.commit("main", "same size")


def test_a_file_that_was_only_touched_has_not_changed(model: ModelRepository) -> None:
    for name in ("manifest.toml", "model.gguf"):
        os.utime(model.worktree_path("main") / name, (1, 1))
    assert model.is_dirty("main")
    assert model.status("main").changes == ()
    assert not model.is_dirty("main"), "a look at the content settles it"


def test_a_commit_makes_what_is_there_the_next_version(model: ModelRepository) -> None:
    path = model.worktree_path("main")
    first = model.resolve("main")
    (path / "adapters/01_x").mkdir(parents=True)
    (path / "adapters/01_x/adapter.safetensors").write_bytes(b"weights" * 1000)
    (path / "manifest.toml").write_text("a = 2\n")
    (path / "evals/x.json").unlink()
    before = contents(path)
    commit = model.commit("main", "tuned", author="alice <a@b>")
    assert model.resolve("main") == commit == model.worktree("main").commit
    assert contents(path) == before == committed(model, "main")
    version = model.log("main", 1)[0]
    assert (version.message, version.author, version.parents) == ("tuned", "alice <a@b>", (first,))
    assert not model.is_dirty("main")
    assert git(path, "status", "--short") == ""
    pointer = model.files(commit)["adapters/01_x/adapter.safetensors"].pointer
    assert pointer is not None
    assert model.blobs.shares(pointer.sha256, path / "adapters/01_x/adapter.safetensors")


def test_nothing_to_commit_is_a_conflict_unless_it_is_wanted(model: ModelRepository) -> None:
    with pytest.raises(Conflict, match="nothing changed"):
        model.commit("main", "nothing")
    first = model.resolve("main")
    assert model.commit("main", "a mark", allow_empty=True) != first
    assert committed(model, "main") == committed(model, first)


@pytest.mark.parametrize("kind", ["link", "fifo", "git", "newline", "pointer"])
def test_what_no_version_can_hold_is_not_committed(model: ModelRepository, kind: str) -> None:
    path = model.worktree_path("main")
    match kind:
        case "link":
            (path / "link").symlink_to("/etc/passwd")
        case "fifo":
            os.mkfifo(path / "fifo")
        case "git":
            (path / "sub/.git").mkdir(parents=True)
            (path / "sub/.git/config").write_text("x")
        case "newline":
            (path / "a\nb").write_text("x")
        case _:
            text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 5\n"
            (path / "weights.gguf").write_text(text)
    first = model.resolve("main")
    assert model.is_dirty("main")
    with pytest.raises(Invalid):
        model.commit("main", "no")
    assert model.resolve("main") == first


def test_a_branch_that_moved_is_not_overwritten_by_its_worktree(model: ModelRepository) -> None:
    path = model.worktree_path("main")
    second = model.commit_files("main", {"b": b"1"}, "by another way", parent=model.resolve("main"))
    (path / "manifest.toml").write_text("a = 2\n")
    with pytest.raises(Conflict, match="has moved"):
        model.commit("main", "too late")
    with pytest.raises(Conflict, match=r"manifest\.toml"):
        model.refresh_worktree("main")
    assert model.resolve("main") == second
    (path / "manifest.toml").write_text("a = 1\n")
    model.refresh_worktree("main")
    assert contents(path) == committed(model, second)
    assert not model.is_dirty("main")


def test_a_refresh_touches_only_what_differs(model: ModelRepository) -> None:
    path = model.worktree_path("main")
    before = {name: (path / name).stat() for name in ("model.gguf", "manifest.toml")}
    model.commit_files(
        "main", {"evals": b"a file", "evals/x.json": None}, "2", parent=model.resolve("main")
    )
    model.refresh_worktree("main")
    assert contents(path) == committed(model, "main")
    assert {name: (path / name).stat().st_ino for name in before} == {
        name: found.st_ino for name, found in before.items()
    }
    assert git(path, "status", "--short") == ""


def test_a_file_in_place_is_not_taken_in_or_copied(tmp_path: Path, model: ModelRepository) -> None:
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(b"GGUF elsewhere" * 1000)
    pointer = model.blobs.refer(outside)
    model.commit_files("main", {"model.gguf": pointer}, "in place", parent=model.resolve("main"))
    model.refresh_worktree("main")
    path = model.worktree_path("main")
    assert (path / "model.gguf").read_bytes() == outside.read_bytes()
    assert not model.is_dirty("main")
    (path / "manifest.toml").write_text("a = 2\n")
    model.commit("main", "beside it")
    assert not model.is_dirty("main")
    assert git(path, "status", "--short") == ""


def test_a_file_that_git_itself_holds_is_written_whatever_its_size(
    model: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyprstream.registry.worktrees._SMALL_BYTES", 100)
    model.commit_files("main", {"long.txt": b"x" * 5000}, "2", parent=model.resolve("main"))
    model.refresh_worktree("main")
    assert contents(model.worktree_path("main")) == committed(model, "main")


# -- crashes -----------------------------------------------------------------------------------------------------------


def copies(model: ModelRepository, tmp_path: Path) -> Callable[[], ModelRepository]:
    """Makes copies of a model in one place, one after the other."""
    template = model.directory.parent

    def copy() -> ModelRepository:
        target = tmp_path / "copy"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(template, target, ignore=shutil.ignore_patterns("home"))
        repository = ModelRepository(target / "model", BlobStore(target / ".blobs"))
        if any(tree.branch == "main" for tree in repository.worktrees()):
            repository.status("main")  # the copies have other inodes
        return repository

    return copy


@pytest.fixture
def original(tmp_path: Path) -> ModelRepository:
    return new_model(tmp_path / "original")


def test_a_kill_at_any_step_of_a_commit_leaves_all_of_it_or_none(
    original: ModelRepository, tmp_path: Path
) -> None:
    copy = copies(original, tmp_path)
    first = original.resolve("main")
    wanted = {
        "model.gguf": WEIGHTS,
        "manifest.toml": b"a = 2\n",
        "new.safetensors": b"weights" * 1000,
    }
    repository = original

    def prepare() -> Callable[[], object]:
        nonlocal repository
        repository = copy()
        path = repository.worktree_path("main")
        (path / "evals/x.json").unlink()
        for name in ("manifest.toml", "new.safetensors"):
            (path / name).write_bytes(wanted[name])
        return lambda: repository.commit("main", "second")

    n_points = 0
    for n in every_point(prepare):
        n_points += 1
        assert contents(repository.worktree_path("main")) == wanted, n
        repository.recover()
        if repository.resolve("main") == first:
            repository.commit("main", "second")
        assert committed(repository, "main") == wanted, n
        assert contents(repository.worktree_path("main")) == wanted, n
        assert not repository.is_dirty("main"), n
        assert [version.message for version in repository.log("main")] == ["second", "first"]
    assert n_points > 20
    assert git(repository.git.git_dir, "fsck", "--strict") == ""


def test_a_kill_while_a_worktree_is_made_leaves_a_whole_one_or_none(
    original: ModelRepository, tmp_path: Path
) -> None:
    original.remove_worktree("main")
    copy = copies(original, tmp_path)
    repository = original

    def prepare() -> Callable[[], object]:
        nonlocal repository
        repository = copy()
        return lambda: repository.add_worktree("main")

    n_points = 0
    for n in every_point(prepare):
        n_points += 1
        path = repository.worktree_path("main")
        assert path.exists() == bool(repository.worktrees()), n
        if not path.exists():
            repository.add_worktree("main")
        assert contents(path) == committed(repository, "main"), n
        assert not repository.is_dirty("main"), n
    assert n_points > 15


def test_a_kill_while_a_worktree_follows_its_branch_is_made_good_by_the_next_change(
    original: ModelRepository, tmp_path: Path
) -> None:
    original.commit_files(
        "main",
        {
            "manifest.toml": b"a = 2\n",
            "model.gguf": WEIGHTS * 2,
            "evals": b"f",
            "evals/x.json": None,
        },
        "second",
        parent=original.resolve("main"),
    )
    copy = copies(original, tmp_path)
    repository = original

    def prepare() -> Callable[[], object]:
        nonlocal repository
        repository = copy()
        return lambda: repository.refresh_worktree("main")

    first = {"manifest.toml": b"a = 1\n", "model.gguf": WEIGHTS, "evals/x.json": b"{}"}
    second = committed(original, "main")
    n_points = 0
    for n in every_point(prepare):
        n_points += 1
        for path, content in contents(repository.worktree_path("main")).items():
            assert content in (first.get(path), second.get(path)), (n, path)
        repository.refresh_worktree("main")
        assert contents(repository.worktree_path("main")) == second, n
        assert not repository.is_dirty("main"), n
    assert n_points > 15


def test_what_the_user_wrote_after_a_crash_is_kept(
    original: ModelRepository, tmp_path: Path
) -> None:
    original.commit_files(
        "main", {"manifest.toml": b"a = 2\n"}, "second", parent=original.resolve("main")
    )
    copy = copies(original, tmp_path)
    repository = original

    def prepare() -> Callable[[], object]:
        nonlocal repository
        repository = copy()
        return lambda: repository.refresh_worktree("main")

    for n in every_point(prepare):
        path = repository.worktree_path("main") / "manifest.toml"
        path.write_text("my own words\n")
        repository.recover()
        assert path.read_text() == "my own words\n", n
        assert [change.path for change in repository.status("main").changes] == ["manifest.toml"], n
