"""One model's repository: versions, files, commits without a worktree, and what is refused."""

import hashlib
import itertools
import os
from pathlib import Path

import pytest

from hyprstream.core.errors import Conflict, Invalid, NotFound, TooLarge
from hyprstream.core.versions import ChangeKind, Pointer
from hyprstream.registry import trees
from hyprstream.registry.blobs import BlobStore
from hyprstream.registry.lfs import encode_pointer
from hyprstream.registry.repository import LARGE_BYTES, ModelRepository
from hyprstream.registry.trees import check_path
from support.repositories import blob, commit_entries, git, subtree

WEIGHTS = b"GGUF and more"


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / ".blobs")


@pytest.fixture
def model(tmp_path: Path, blobs: BlobStore) -> ModelRepository:
    """A model with one commit on `main`."""
    repository = ModelRepository.create(tmp_path / "model", blobs)
    repository.commit_files(
        "main",
        {"model.gguf": WEIGHTS, "manifest.toml": b"a = 1\n", "evals/x.json": b"{}"},
        "first",
        parent=None,
    )
    return repository


def head(model: ModelRepository, branch: str = "main") -> str:
    return model.branches()[branch]


# -- files and commits -------------------------------------------------------------------------------------------------


def test_weights_are_kept_as_pointers_and_read_as_themselves(
    model: ModelRepository, blobs: BlobStore
) -> None:
    files = model.files(head(model))
    assert list(files) == ["evals/x.json", "manifest.toml", "model.gguf"]
    weights = files["model.gguf"]
    assert weights.pointer is not None
    assert weights.size == len(WEIGHTS)
    assert blobs.path(weights.pointer.sha256).read_bytes() == WEIGHTS
    assert model.read(head(model), "model.gguf") == WEIGHTS
    assert git(model.git.git_dir, "cat-file", "blob", weights.oid).startswith(
        "version https://git-lfs"
    )
    assert files["manifest.toml"].pointer is None


@pytest.mark.parametrize(
    ("name", "size", "is_large"),
    [
        ("a.json", LARGE_BYTES - 1, False),
        ("a.json", LARGE_BYTES, True),
        ("a.safetensors", 10, True),
        ("a.PT", 10, True),
        ("a.bin", 10, True),
    ],
)
def test_a_file_is_large_by_its_size_or_its_kind(
    model: ModelRepository, tmp_path: Path, name: str, size: int, is_large: bool
) -> None:
    (tmp_path / "file").write_bytes(b"x" * size)
    for content in (b"x" * size, tmp_path / "file"):
        commit = model.commit_files("main", {name: content}, "more", parent=head(model))
        assert (model.files(commit)[name].pointer is not None) == is_large
        assert model.files(commit)[name].size == size
    assert (tmp_path / "file").exists(), "a file that is given is not taken away"


def test_bytes_are_never_rewritten_whatever_attributes_say(model: ModelRepository) -> None:
    content = b"a\r\nb\n$Id$\n"
    attributes = b"* text=auto eol=lf ident working-tree-encoding=UTF-16 filter=lfs\n"
    commit = model.commit_files(
        "main", {".gitattributes": attributes, "a.txt": content}, "crlf", parent=head(model)
    )
    assert model.read(commit, "a.txt") == content
    model.add_worktree("main")
    path = model.worktree_path("main")
    assert (path / "a.txt").read_bytes() == content
    assert git(path, "status", "--short") == ""


def test_a_file_is_deleted_and_a_directory_becomes_a_file(model: ModelRepository) -> None:
    commit = model.commit_files(
        "main", {"evals/x.json": None, "evals": b"now a file"}, "less", parent=head(model)
    )
    assert list(model.files(commit)) == ["evals", "manifest.toml", "model.gguf"]


def test_a_branch_that_moved_meanwhile_stays_where_it_is(model: ModelRepository) -> None:
    first = head(model)
    second = model.commit_files("main", {"a": b"1"}, "second", parent=first)
    with pytest.raises(Conflict, match="not at"):
        model.commit_files("main", {"a": b"2"}, "too late", parent=first)
    with pytest.raises(Conflict):
        model.commit_files("main", {"a": b"2"}, "not the first", parent=None)
    assert head(model) == second


def test_a_pointer_to_what_is_not_here_is_no_file(model: ModelRepository) -> None:
    text = encode_pointer(Pointer("0" * 64, 5))
    with pytest.raises(Invalid, match="Git LFS pointer"):
        model.commit_files("main", {"w.gguf": text}, "broken", parent=head(model))


def test_a_pointer_can_be_given_for_what_is_here(model: ModelRepository) -> None:
    pointer = model.files(head(model))["model.gguf"].pointer
    assert pointer is not None
    commit = model.commit_files("main", {"copy.gguf": pointer}, "again", parent=head(model))
    assert model.files(commit)["copy.gguf"].oid == model.files(commit)["model.gguf"].oid


def test_a_content_longer_than_allowed_is_not_read(model: ModelRepository) -> None:
    with pytest.raises(TooLarge, match="13 bytes, at most 5"):
        model.read(head(model), "model.gguf", limit=5)
    with pytest.raises(NotFound, match="no file 'nope'"):
        model.read(head(model), "nope")


def test_a_diff_names_what_was_added_changed_and_deleted(model: ModelRepository) -> None:
    first = head(model)
    model.commit_files(
        "main", {"new": b"1", "manifest.toml": b"a = 2\n", "evals/x.json": None}, "2", parent=first
    )
    kinds = {change.path: change.kind for change in model.diff(first, "main")}
    assert kinds == {
        "evals/x.json": ChangeKind.DELETED,
        "manifest.toml": ChangeKind.MODIFIED,
        "new": ChangeKind.ADDED,
    }
    assert model.diff("main", "main") == []


def test_the_log_is_newest_first(model: ModelRepository) -> None:
    first = head(model)
    second = model.commit_files(
        "main", {"a": b"1"}, "second\n\nwhy", parent=first, author="alice <a@b>"
    )
    versions = model.log("main", 10)
    assert [(v.id, v.message, v.parents) for v in versions] == [
        (second, "second\n\nwhy", (first,)),
        (first, "first", ()),
    ]
    assert versions[0].author == "alice <a@b>"
    assert len(model.log("main", 1)) == 1


# -- names -------------------------------------------------------------------------------------------------------------


def test_every_name_means_exactly_its_version(model: ModelRepository) -> None:
    first = head(model)
    model.create_branch("lora/medical", "main")
    model.create_tag("v1", "main")
    model.create_tag("v1-signed-off", first[:7], "looks good")
    second = model.commit_files("main", {"a": b"1"}, "second", parent=first)
    for name, commit in {
        "main": second,
        "lora/medical": first,
        "v1": first,
        "v1-signed-off": first,
        first: first,
        first[:7]: first,
        second[:12]: second,
    }.items():
        assert model.resolve(name) == commit
    assert model.tags() == {"v1": first, "v1-signed-off": first}


def test_a_name_that_means_nothing_is_not_found_and_says_what_is_near(
    model: ModelRepository,
) -> None:
    model.create_tag("v1.0", "main")
    with pytest.raises(NotFound) as caught:
        model.resolve("v1.1")
    assert caught.value.hint == "did you mean v1.0?"
    for name in ("0" * 40, "abcdef0", "HEAD~1", "main^", "-x", "refs/heads/main", ""):
        with pytest.raises(NotFound):
            model.resolve(name)


def test_only_commits_are_versions(model: ModelRepository) -> None:
    with pytest.raises(NotFound):
        model.resolve(model.files(head(model))["manifest.toml"].oid)


def commits_with_one_beginning(model: ModelRepository) -> tuple[bytes, bytes]:
    """Two commits, not yet stored, whose ids have the first seven digits in common."""
    tree = git(model.git.git_dir, "rev-parse", "main^{tree}").strip()
    seen: dict[str, bytes] = {}
    for i in itertools.count():
        person = "a <a@b> 1 +0000"
        content = f"tree {tree}\nauthor {person}\ncommitter {person}\n\n{i}\n".encode()
        digest = hashlib.sha1(b"commit %d\0" % len(content) + content).hexdigest()[:7]
        if digest in seen:
            return seen[digest], content
        seen[digest] = content
    raise AssertionError("there are only 2^28 beginnings")


def test_the_beginning_of_several_commits_is_a_conflict_that_more_digits_settle(
    model: ModelRepository,
) -> None:
    contents = commits_with_one_beginning(model)
    first, second = (
        git(model.git.git_dir, "hash-object", "-w", "-t", "commit", "--stdin", stdin=c).strip()
        for c in contents
    )
    with pytest.raises(Conflict, match=first[:12]) as caught:
        model.resolve(first[:7])
    assert second[:12] in caught.value.message
    assert (model.resolve(first), model.resolve(second)) == (first, second)


def test_a_branch_and_a_tag_of_one_name_and_two_commits_are_a_conflict(
    model: ModelRepository,
) -> None:
    first = head(model)
    model.commit_files("main", {"a": b"1"}, "second", parent=first)
    model.git.run("update-ref", "refs/tags/main", first)
    with pytest.raises(Conflict):
        model.resolve("main")


def test_a_name_is_given_once(model: ModelRepository) -> None:
    model.create_branch("dev", "main")
    model.create_tag("v1", "main")
    for name in ("dev", "v1", "main"):
        with pytest.raises(Conflict):
            model.create_branch(name, "main")
        with pytest.raises(Conflict):
            model.create_tag(name, "main")
    with pytest.raises(Conflict):
        model.create_branch("dev/more", "main")


@pytest.mark.parametrize("name", ["-x", "a..b", "a b", "HEAD", "a.lock", "", "a/", "ä", "x" * 200])
def test_a_name_that_a_reference_cannot_have_is_refused(model: ModelRepository, name: str) -> None:
    for make in (model.create_branch, model.create_tag):
        with pytest.raises(Invalid):
            make(name, "main")


def test_a_branch_with_commits_of_its_own_is_deleted_only_by_force(model: ModelRepository) -> None:
    model.create_branch("dev", "main")
    model.commit_files("dev", {"a": b"1"}, "own", parent=head(model, "dev"))
    with pytest.raises(Conflict, match="in no other version"):
        model.delete_branch("dev")
    model.delete_branch("dev", force=True)
    model.create_branch("dev", "main")
    model.delete_branch("dev")
    assert list(model.branches()) == ["main"]
    with pytest.raises(Conflict, match="default"):
        model.delete_branch("main")
    with pytest.raises(NotFound):
        model.delete_branch("dev")


def test_a_tag_is_deleted_and_its_commit_stays(model: ModelRepository) -> None:
    model.create_tag("v1", "main", "message")
    model.delete_tag("v1")
    assert model.tags() == {}
    with pytest.raises(NotFound):
        model.delete_tag("v1")
    assert model.files(head(model))


# -- hostile trees -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../x", "leads elsewhere"),
        ("/etc/passwd", "leads elsewhere"),
        ("a//b", "leads elsewhere"),
        ("a/./b", "leads elsewhere"),
        ("", "leads elsewhere"),
        (".git/hooks/post-checkout", "git's own"),
        ("a/.GIT/config", "git's own"),
        (".git. ", "git's own"),
        ("git~1/config", "git's own"),
        (".g\u200cit/config", "cannot be seen"),
        ("a\nb", "cannot be seen"),
        ("a\x1b[2Jb", "cannot be seen"),
        ("\u202egnp.exe", "cannot be seen"),
        ("a\\b", "backslash"),
        ("a/" * 600 + "b", "1201 bytes"),
        ("x" * 256, "255 bytes"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_a_path_no_model_may_hold_is_refused(path: str, reason: str) -> None:
    with pytest.raises(Invalid, match=reason) as caught:
        check_path(path)
    assert caught.value.message.isascii()


def test_ordinary_paths_are_taken() -> None:
    for path in (
        "a",
        ".gitattributes",
        "adapters/00_base/x.safetensors",
        "größe/模型.json",
        "a.git.md",
    ):
        check_path(path)


def hostile(repository: Path, kind: str) -> str:
    """A commit of a kind that no model may hold."""
    content = blob(repository, b"x")
    match kind:
        case "link":
            return commit_entries(repository, {"weights": ("120000", blob(repository, b"/etc"))})
        case "submodule":
            return commit_entries(repository, {"weights": ("160000", "1" * 40)})
        case "file and directory":
            directory = subtree(repository, {"a": ("100644", content)})
            return commit_entries(
                repository, {"weights": ("100644", content), "weights ": ("40000", directory)}
            )
        case name:
            directory = subtree(repository, {"config": ("100644", content)})
            return commit_entries(repository, {name: ("40000", directory)})


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("link", "weights"),
        ("submodule", "weights"),
        ("..", r"\.\./config"),
        (".git", r"\.git/config"),
        (".GiT", "config"),
        ("a\n", "config"),
    ],
)
def test_a_hostile_tree_is_refused_with_the_path_before_anything_is_written(
    model: ModelRepository, kind: str, named: str
) -> None:
    commit = hostile(model.git.git_dir, kind)
    with pytest.raises(Invalid, match=named):
        model.files(commit)
    with pytest.raises(Invalid, match=named):
        model.add_worktree("main")
    assert not model.worktree_path("main").exists()
    assert model.worktrees() == []


def test_a_tree_with_too_many_files_is_refused_with_both_numbers(
    model: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "MAX_FILES", 2)
    with pytest.raises(TooLarge, match="3 files; a model has at most 2"):
        model.files(head(model))


def test_many_small_files_are_read_in_more_than_one_batch(
    model: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "_BATCH_BYTES", 20)
    contents = {f"{i}.json": os.urandom(9) for i in range(10)}
    commit = model.commit_files("main", contents, "many", parent=head(model))
    sizes = {file.oid: file.size for path, file in model.files(commit).items() if path in contents}
    assert sorted(trees.read_blobs(model.git, sizes)) == sorted(
        (model.files(commit)[path].oid, content) for path, content in contents.items()
    )
