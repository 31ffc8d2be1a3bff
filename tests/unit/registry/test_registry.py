"""What is put into the registry comes out again, each version by every name it has, and no version by another's name."""

import hashlib
import logging
import os
import subprocess
from pathlib import Path

import pytest

from hyprstream.core.errors import Conflict, Invalid, InvalidModelFile, NotFound
from hyprstream.core.refs import ModelRef
from hyprstream.registry.commits import hash_bytes, write_commit, write_tree
from hyprstream.registry.registry import NewFile, Registry
from support.gguf_writer import METADATA, TENSORS, write
from support.registries import SHA256, TINY, add, another, messages, shards, snapshot, worktree

HEADER = b'{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}'
SAFETENSORS = len(HEADER).to_bytes(8, "little") + HEADER + bytes(24)


def test_a_model_comes_out_as_it_went_in(registry: Registry) -> None:
    added = add(registry, "tiny")

    assert registry.resolve(ModelRef("tiny")) == added
    assert registry.list() == [added]
    assert Path(added.path).read_bytes() == TINY
    assert (added.sha256, added.size_bytes, added.source) == (SHA256, len(TINY), "a test")
    assert (added.facts.name, added.facts.license, added.facts.n_params) == (
        "Tiny",
        "apache-2.0",
        160,
    )
    assert registry.names() == ["tiny"]
    assert registry.id_of("tiny") == added.id


def test_an_imported_model_is_a_repository_with_one_commit_that_git_itself_can_read(
    registry: Registry,
) -> None:
    model = add(registry, "tiny")

    repository = registry.repository("tiny")
    (version,) = repository.log("main", 10)
    assert (version.id, version.message) == (model.commit, "import tiny:main from a test")
    assert version.created == model.created
    assert sorted(repository.files(model.commit)) == [
        ".gitattributes",
        "manifest.toml",
        "model.gguf",
    ]
    git = ["git", "--git-dir", str(repository.git.git_dir)]
    shown = subprocess.run([*git, "show", "main:model.gguf"], capture_output=True, check=True)
    assert shown.stdout.decode().splitlines()[1:] == [f"oid sha256:{SHA256}", f"size {len(TINY)}"]
    assert subprocess.run([*git, "fsck", "--strict"], capture_output=True).returncode == 0


def test_the_manifest_says_what_the_model_is_and_where_it_comes_from(registry: Registry) -> None:
    add(registry, "tiny")

    text = (worktree(registry, "tiny") / "manifest.toml").read_text()

    for line in (
        'name = "Tiny"',
        'architecture = "llama"',
        f'sha256 = "{SHA256}"',
        'source = "a test"',
    ):
        assert line in text


def test_each_version_has_many_names_and_each_name_one_version(registry: Registry) -> None:
    first = add(registry, "tiny")
    repository = registry.repository("tiny")
    repository.create_tag("v1.0", "main")
    (worktree(registry, "tiny") / "README.md").write_text("second")
    second = repository.commit("main", "more")
    repository.create_branch("feature/medical", first.commit)

    named = {
        "tiny": second,
        "tiny:main": second,
        "tiny:v1.0": first.commit,
        "tiny:feature/medical": first.commit,
        f"tiny:{first.commit}": first.commit,
        f"tiny:{second[:8]}": second,
        f"{first.id}": second,
        f"{first.id}:v1.0": first.commit,
        f"tiny@sha256:{SHA256}": second,
    }
    for text, commit in named.items():
        model = registry.resolve(ModelRef.parse(text))
        assert (model.commit, model.id) == (commit, first.id), text
        assert model.ref == ModelRef("tiny", ModelRef.parse(text).ref)


@pytest.mark.parametrize(
    "version", ["v2.0", "mian", "0123456", "feature", "main/x", "sha256:" + "0" * 64]
)
def test_a_version_that_is_not_there_is_never_replaced_by_another(
    registry: Registry, version: str
) -> None:
    add(registry, "tiny")

    with pytest.raises(NotFound):
        registry.resolve(ModelRef("tiny", version))
    with pytest.raises(NotFound):
        registry.branches_of(ModelRef("tiny", version))


def test_a_uuid_nobody_has_is_not_found(registry: Registry) -> None:
    add(registry, "tiny")

    with pytest.raises(NotFound):
        registry.resolve(ModelRef("00000000-0000-0000-0000-000000000000"))


def test_weights_of_an_old_version_are_found_by_their_digest(registry: Registry) -> None:
    first = add(registry, "tiny")
    second = add(registry, "tiny", another(2))

    assert registry.resolve(ModelRef.parse(f"tiny@sha256:{SHA256}")).commit == first.commit
    assert registry.resolve(ModelRef.parse(f"tiny@sha256:{second.sha256}")).commit == second.commit
    assert registry.repository("tiny").log("main", 1)[0].parents == (first.commit,)


def test_a_worktree_with_changes_still_means_its_commit(registry: Registry) -> None:
    model = add(registry, "tiny")
    (worktree(registry, "tiny") / "manifest.toml").write_text("[model]\n")

    assert registry.resolve(ModelRef("tiny")) == model
    (entry,) = registry.entries()
    assert entry.is_dirty and entry.commit == model.commit


def test_the_branches_that_hold_a_version_are_known_by_all_its_names(registry: Registry) -> None:
    first = add(registry, "tiny")
    repository = registry.repository("tiny")
    repository.create_branch("old", "main")
    repository.create_tag("v1", "main")
    (worktree(registry, "tiny") / "README.md").write_text("second")
    second = repository.commit("main", "more")

    def held(version: str) -> list[str]:
        return [str(ref) for ref in registry.branches_of(ModelRef(first.id, version))]

    assert held("old") == ["tiny:old"]
    assert held("v1") == held(first.commit[:7]) == ["tiny", "tiny:old"]
    assert held(second) == ["tiny"]
    repository.create_branch("new", second)
    assert held(second) == ["tiny", "tiny:new"]


def test_a_reference_is_made_canonical_by_the_models_name(registry: Registry) -> None:
    model = add(registry, "tiny")

    assert registry.canonical(ModelRef(model.id, "v1")) == ModelRef("tiny", "v1")
    with pytest.raises(NotFound):
        registry.canonical(ModelRef("other"))


def test_shards_are_served_from_a_directory_where_each_has_its_name(registry: Registry) -> None:
    ref = ModelRef("tiny")
    with registry.staging(ref) as directory:
        files = shards()
        for name, content in files.items():
            (directory / name).write_bytes(content)
        new = [
            NewFile(directory / name, name, hashlib.sha256(content).hexdigest())
            for name, content in files.items()
        ]
        model = registry.add(ref, new, source="a test")

    path = Path(model.path)
    assert path.name == "Tiny-00001-of-00002.gguf"
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == files
    assert (model.facts.n_params, model.size_bytes) == (192, sum(map(len, files.values())))
    outside = registry.resolve_path(worktree(registry, "tiny") / path.name)
    assert (outside.sha256, outside.facts) == (model.sha256, model.facts)


def test_a_file_outside_the_registry_can_be_described(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "Tiny.gguf"
    path.write_bytes(TINY)

    found = registry.resolve_path(path)

    assert (str(found.ref), found.path, found.sha256, found.id) == ("tiny", str(path), SHA256, "")
    assert registry.list() == []
    with pytest.raises(NotFound, match="no file"):
        registry.resolve_path(tmp_path / "none.gguf")


def test_a_licence_the_file_does_not_name_is_the_sources(registry: Registry) -> None:
    metadata = [(key, value) for key, value in METADATA if key != "general.license"]

    assert add(registry, "tiny", bytes(write(metadata, TENSORS).data)).facts.license == "MIT"


def test_an_unsound_file_is_refused_with_its_reason_and_leaves_nothing(registry: Registry) -> None:
    with pytest.raises(InvalidModelFile, match=r"model\.gguf.*GGUF"):
        add(registry, "tiny", b"<html>not a model</html>")

    assert registry.list() == []
    assert registry.names() == []
    assert not (registry.models_dir / "tiny").exists()


def test_a_digest_or_uuid_cannot_be_imported_to(registry: Registry) -> None:
    for text in (f"tiny@sha256:{SHA256}", "00000000-0000-0000-0000-000000000000"):
        with pytest.raises(Invalid, match="no name for a new model"):
            add(registry, text)


def test_a_second_branch_is_imported_beside_the_first(registry: Registry) -> None:
    first = add(registry, "tiny")
    second = add(registry, "tiny:lora/medical", another(2))

    assert registry.list() == [second, first]
    assert first.id == second.id
    assert (worktree(registry, "tiny:lora/medical") / "model.gguf").read_bytes() == another(2)
    assert messages(registry) == [
        "import tiny:lora/medical from a test",
        "import tiny:main from a test",
    ]


def test_ten_branches_share_one_file(registry: Registry) -> None:
    add(registry, "tiny")
    repository = registry.repository("tiny")
    for i in range(9):
        repository.create_branch(f"b{i}", "main")
        repository.add_worktree(f"b{i}")

    inodes = {
        (worktree(registry, str(entry.ref)) / "model.gguf").stat().st_ino
        for entry in registry.entries()
    }
    entries = registry.entries()
    assert len(entries) == 10
    assert len(inodes) == 1 or {entry.driver for entry in entries} == {"reflink"}
    assert {entry.shared_bytes for entry in entries} == {len(TINY)}
    report = registry.dedup_report()
    assert (report.n_worktrees, report.stored_bytes) == (10, len(TINY))
    assert report.saved_bytes > 9 * len(TINY)


# --- what cannot be served --------------------------------------------------------------------------------------------


def committed(registry: Registry, files: dict[str, bytes]) -> ModelRef:
    """A version of `tiny` that holds these files and no model."""
    model = add(registry, "tiny")
    registry.repository("tiny").commit_files(
        "main",
        {"model.gguf": None, "manifest.toml": None, **files},
        "other files",
        parent=model.commit,
    )
    registry.repository("tiny").refresh_worktree("main")
    return ModelRef("tiny")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (
            {"model.safetensors": SAFETENSORS},
            r"it holds model.safetensors, and llama.cpp needs a GGUF \(6 parameters of F32\)",
        ),
        ({"model.safetensors": b"x" * 8}, "it holds model.safetensors, .* model.safetensors"),
        (
            {"pytorch_model.bin": b"x" * 8},
            "pytorch_model.bin is a Python pickle",
        ),
        ({"notes.txt": b"x"}, "it holds notes.txt, and llama.cpp needs a GGUF"),
        (
            {"a.gguf": TINY, "b.gguf": another(2)},
            r"it holds 2 models \(a, b\), and no manifest.toml says which",
        ),
    ],
)
def test_a_version_without_one_gguf_says_what_it_holds(
    registry: Registry, files: dict[str, bytes], reason: str
) -> None:
    ref = committed(registry, files)

    with pytest.raises(Invalid, match=f"tiny cannot be served: {reason}"):
        registry.resolve(ref)
    assert registry.list() == []
    (entry,) = registry.entries()
    assert not entry.has_weights and entry.problem
    assert registry.find(ref) is None


def test_a_gguf_that_git_itself_holds_is_served_too(registry: Registry) -> None:
    add(registry, "tiny")
    with registry.repository("tiny").git.exclusive() as git:
        tree = write_tree(git, None, {"model.gguf": hash_bytes(git, another(4))})
        commit = write_commit(git, tree, (), "by somebody without Git LFS")
        git.run("update-ref", "refs/heads/plain", commit)
    registry.repository("tiny").add_worktree("plain")

    model = registry.resolve(ModelRef("tiny", "plain"))
    assert Path(model.path).read_bytes() == another(4)
    registry.gc()
    registry.blobs.remove(model.sha256)
    assert Path(registry.resolve(ModelRef("tiny", "plain")).path).read_bytes() == another(4)


def test_a_gguf_that_is_not_sound_is_registered_and_never_served(registry: Registry) -> None:
    ref = committed(registry, {"model.gguf": b"GGUF" + bytes(64)})

    with pytest.raises(InvalidModelFile, match=r"cannot be served: model\.gguf"):
        registry.resolve(ref)


def test_the_manifest_says_which_of_several_is_served(registry: Registry) -> None:
    manifest = f'[[weights]]\nfile = "b.gguf"\nsha256 = "{SHA256}"\nsize = 1\n'.encode()
    ref = committed(registry, {"a.gguf": another(2), "b.gguf": TINY, "manifest.toml": manifest})

    model = registry.resolve(ref)

    assert (model.sha256, model.size_bytes) == (SHA256, len(TINY)), "the tree is right about both"


def test_a_projector_and_adapters_are_not_taken_for_the_model(registry: Registry) -> None:
    ref = committed(
        registry,
        {"x.gguf": TINY, "mmproj-x.gguf": another(2), "adapters/00_a/a.gguf": another(3)},
    )

    assert registry.resolve(ref).sha256 == SHA256


def test_a_broken_manifest_hides_no_sound_model(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        ref = committed(registry, {"x.gguf": TINY, "manifest.toml": b"[[["})
        assert registry.resolve(ref).sha256 == SHA256
    assert "manifest.toml" in caplog.text


def test_a_model_whose_blob_was_deleted_is_not_there(registry: Registry) -> None:
    model, other = add(registry, "tiny"), add(registry, "other", another(2))
    Path(model.path).unlink()

    with pytest.raises(NotFound, match="is not here"):
        registry.resolve(model.ref)
    assert registry.list() == [other]
    assert [str(entry.ref) for entry in registry.entries()] == ["other", "tiny"]


# --- what is not there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("smollm2", "hyprstream pull smollm2"),
        ("gemma3:270m", "hyprstream pull gemma3:270m"),
        ("tny-model", "did you mean tiny-model?"),
        ("smolm2", "hyprstream pull smollm2"),
        ("zzzz", "hyprstream list"),
        ("tiny-model:mian", "did you mean main?"),
    ],
)
def test_a_model_that_is_not_there_has_a_way_out(
    registry: Registry, wanted: str, hint: str
) -> None:
    add(registry, "tiny-model")

    with pytest.raises(NotFound) as error:
        registry.resolve(ModelRef.parse(wanted))

    assert error.value.hint == hint


def test_an_empty_registry_suggests_the_default_model_and_writes_nothing(
    registry: Registry,
) -> None:
    assert (registry.list(), registry.entries(), registry.names(), registry.log()) == ([],) * 4
    with pytest.raises(NotFound) as error:
        registry.resolve(ModelRef("zzzz"))
    assert error.value.hint == "hyprstream pull smollm2"
    assert not registry.models_dir.exists()


def test_a_file_where_the_directory_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")

    with pytest.raises(Invalid, match="is not a directory"):
        Registry(tmp_path / "models").list()


def test_one_damaged_record_hides_no_other_model(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    add(registry, "broken")
    sound = add(registry, "sound", another(2))
    (registry.models_dir / ".registry" / "models" / "broken.json").write_text("{")

    assert registry.list() == [sound]
    assert "broken" in caplog.text


# --- names, removal, undo ---------------------------------------------------------------------------------------------


def test_a_renamed_model_keeps_its_uuid_and_its_worktree(registry: Registry) -> None:
    model = add(registry, "tiny")

    registry.rename("tiny", "small")

    renamed = registry.resolve(ModelRef("small"))
    assert (renamed.id, renamed.commit) == (model.id, model.commit)
    assert registry.names() == ["small"]
    (entry,) = registry.entries()
    assert not entry.is_dirty and Path(entry.worktree, "model.gguf").read_bytes() == TINY
    (Path(entry.worktree) / "README.md").write_text("x")
    assert registry.repository("small").commit("main", "still a worktree")


@pytest.mark.parametrize("name", ["../x", "CON", "a b", "", "x.git"])
def test_a_name_no_model_can_have_is_refused(registry: Registry, name: str) -> None:
    add(registry, "tiny")

    with pytest.raises(Invalid):
        registry.rename("tiny", name)


def test_a_taken_name_is_refused_and_nothing_moves(registry: Registry) -> None:
    add(registry, "tiny")
    add(registry, "other", another(2))
    before = snapshot(registry)

    with pytest.raises(Conflict, match="there is a model other already"):
        registry.rename("tiny", "other")

    assert snapshot(registry) == before


def test_a_removal_says_what_it_takes_and_what_stays(registry: Registry) -> None:
    add(registry, "tiny")
    add(registry, "copy")
    add(registry, "tiny:v2", another(2))

    whole, branch = registry.removal("tiny"), registry.removal(ModelRef("tiny", "v2"))

    assert (whole.is_whole_model, whole.worktrees) == (True, ("main", "v2"))
    assert (whole.size_bytes, whole.shared_bytes) == (len(another(2)), len(TINY))
    assert (branch.what, branch.worktrees) == ("tiny:v2", ("v2",))
    assert (branch.size_bytes, branch.shared_bytes) == (len(another(2)), 0)
    assert registry.removal(ModelRef("copy")).is_whole_model, "its only branch is all of it"


def test_what_a_plan_says_is_what_the_next_collection_frees(registry: Registry) -> None:
    add(registry, "tiny")
    add(registry, "copy")
    add(registry, "tiny:v2", another(2))
    plan = registry.removal(ModelRef("tiny", "v2"))

    registry.remove(plan)
    n_blobs = len(list(registry.blobs))
    registry.gc()

    assert n_blobs == 2 and list(registry.blobs) == [SHA256]
    assert plan.size_bytes == len(another(2))


def test_a_removed_model_comes_back_whole(registry: Registry) -> None:
    add(registry, "tiny")
    add(registry, "tiny:v2", another(2))
    (worktree(registry, "tiny") / "notes.txt").write_text("not committed")
    before = snapshot(registry)

    with pytest.raises(Conflict, match="changes that are not committed"):
        registry.remove(registry.removal("tiny"))
    registry.remove(registry.removal("tiny"), force=True)
    assert snapshot(registry) == []
    assert not (registry.models_dir / "tiny").exists()
    with pytest.raises(NotFound):
        registry.resolve(ModelRef("tiny"))

    assert registry.undo().message == "undo: remove tiny"

    assert snapshot(registry) == before
    assert (worktree(registry, "tiny") / "notes.txt").read_text() == "not committed"


def test_a_removed_branch_comes_back_where_it_was(registry: Registry) -> None:
    add(registry, "tiny")
    add(registry, "tiny:v2", another(2))
    (worktree(registry, "tiny:v2") / "README.md").write_text("more")
    registry.repository("tiny").commit("v2", "a commit the registry has not seen")
    before = snapshot(registry)

    registry.remove(registry.removal(ModelRef("tiny", "v2")))
    assert [ref for ref, *_ in snapshot(registry)] == ["tiny"]
    with pytest.raises(NotFound):
        registry.resolve(ModelRef("tiny", "v2"))

    registry.undo()

    assert snapshot(registry) == before
    assert (worktree(registry, "tiny:v2") / "README.md").read_text() == "more"


def test_an_import_is_taken_back_and_the_taking_back_too(registry: Registry) -> None:
    add(registry, "tiny")
    before = snapshot(registry)

    registry.undo()
    assert snapshot(registry) == []
    registry.undo()

    assert snapshot(registry) == before
    assert messages(registry) == [
        "undo: undo: import tiny:main from a test",
        "undo: import tiny:main from a test",
        "import tiny:main from a test",
    ]


def test_an_imported_branch_and_a_rename_are_taken_back(registry: Registry) -> None:
    add(registry, "tiny")
    before = snapshot(registry)
    add(registry, "tiny:v2", another(2))
    registry.undo()
    assert snapshot(registry) == before

    registry.rename("tiny", "small")
    registry.undo()
    assert snapshot(registry) == before


def test_an_older_change_is_taken_back_if_nothing_was_built_on_it(registry: Registry) -> None:
    add(registry, "tiny")
    add(registry, "other", another(2))
    (first,) = [v.id for v in registry.log() if v.message.startswith("import tiny")]

    registry.undo(first)
    assert registry.names() == ["other"]

    with pytest.raises(Conflict, match="removed or renamed since"):
        registry.undo(first)


def test_what_was_collected_cannot_be_brought_back(registry: Registry) -> None:
    add(registry, "tiny")
    registry.remove(registry.removal("tiny"))
    registry.gc()

    with pytest.raises(Conflict, match="are collected"):
        registry.undo()
    assert registry.names() == []


def test_a_name_that_is_taken_again_is_not_overwritten_by_undo(registry: Registry) -> None:
    add(registry, "tiny")
    registry.remove(registry.removal("tiny"))
    (removal,) = registry.log(1)
    add(registry, "tiny", another(2))

    with pytest.raises(Conflict, match="another model tiny"):
        registry.undo(removal.id)


@pytest.mark.parametrize("name", ["../tiny", "*", "", "a/b", ".registry"])
def test_a_name_that_is_none_is_not_found_anywhere(registry: Registry, name: str) -> None:
    add(registry, "tiny")

    for ask in (registry.removal, registry.id_of, registry.repository):
        with pytest.raises(NotFound):
            ask(name)


@pytest.mark.parametrize("revision", ["HEAD~5", "nonsense", "--help", "HEAD:models", "@{1}"])
def test_a_change_nobody_made_is_not_found(registry: Registry, revision: str) -> None:
    add(registry, "tiny")

    with pytest.raises(NotFound):
        registry.undo(revision)


def test_the_registration_alone_or_the_files_alone_can_be_removed(registry: Registry) -> None:
    model = add(registry, "tiny")
    before = snapshot(registry)

    registry.remove(registry.removal("tiny"), registry_only=True)
    assert registry.names() == []
    assert (registry.models_dir / "tiny" / "worktrees" / "main" / "model.gguf").exists()
    with pytest.raises(Conflict, match="not registered"):
        add(registry, "tiny")
    registry.undo()
    assert snapshot(registry) == before

    registry.remove(registry.removal("tiny"), files_only=True)
    assert registry.names() == ["tiny"]
    assert registry.entries() == []
    with pytest.raises(NotFound, match="files of tiny are not here"):
        registry.resolve(ModelRef("tiny"))
    registry.undo()
    assert snapshot(registry) == before

    registry.remove(registry.removal("tiny"), files_only=True)
    assert add(registry, "tiny").id == model.id, "it was registered all the time"


def test_removing_what_is_not_there_is_not_found(registry: Registry) -> None:
    add(registry, "tiny")

    for target in ("none", ModelRef("tiny", "none")):
        with pytest.raises(NotFound):
            registry.removal(target)


def test_a_failing_step_takes_back_all_steps_before_it(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyprstream.registry.state import State

    add(registry, "tiny")
    before = snapshot(registry)
    log = messages(registry)
    commit = State.commit

    def fails_once(state: State, records: object, message: str) -> None:
        monkeypatch.setattr(State, "commit", commit)
        raise OSError("no space left on device")

    for change in (
        lambda: add(registry, "new", another(2)),
        lambda: add(registry, "tiny:v2", another(3)),
        lambda: registry.rename("tiny", "small"),
        lambda: registry.remove(registry.removal("tiny")),
        lambda: registry.undo(),
    ):
        monkeypatch.setattr(State, "commit", fails_once)
        with pytest.raises(OSError, match="no space left"):
            change()
        assert snapshot(registry) == before
        assert messages(registry) == log
        assert sorted(path.name for path in registry.models_dir.glob("[a-z]*")) == ["tiny"]

    add(registry, "new", another(2))
    assert registry.names() == ["new", "tiny"]


def test_any_number_of_processes_see_one_change_after_another(registry: Registry) -> None:
    other = Registry(registry.models_dir)
    add(registry, "tiny")
    add(other, "second", another(2))

    assert registry.names() == other.names() == ["second", "tiny"]
    assert snapshot(registry) == snapshot(other)


def test_a_file_that_was_only_touched_is_no_change(registry: Registry) -> None:
    add(registry, "tiny")
    manifest = worktree(registry, "tiny") / "manifest.toml"
    os.utime(manifest, (1, 1))
    assert [entry.is_dirty for entry in registry.entries()] == [False]
    manifest.write_text("# mine\n" + manifest.read_text())
    assert [entry.is_dirty for entry in registry.entries()] == [True]
