"""The commands about models and their versions, on a registry of their own and a remote beside it."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hyprstream import bootstrap
from hyprstream.cli import options
from hyprstream.core.errors import Denied
from hyprstream.core.principal import Action, Principal, Resource
from hyprstream.core.refs import ModelRef
from hyprstream.registry.registry import Registry
from hyprstream.services.registry import RegistryTools
from hyprstream.settings import Settings
from support.command_line import Command, Outcome
from support.model_remote import ModelRemote, gguf, git

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class Forbids:
    """A policy that allows everything but what is named: pairs of action and resource."""

    def __init__(self, *forbidden: tuple[Action, str]) -> None:
        self._forbidden = forbidden

    def allows(self, principal: Principal, action: Action, resource: Resource) -> bool:
        return (action, str(resource)) not in self._forbidden

    def require(self, principal: Principal, action: Action, resource: Resource) -> None:
        if not self.allows(principal, action, resource):
            raise Denied(f"{principal} may not {action} {resource}")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


@pytest.fixture(autouse=True)
def tools(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> RegistryTools:
    """What every command of a test works with."""
    return use(RegistryTools.of(Forbids(), registry), monkeypatch)


def use(tools: RegistryTools, monkeypatch: pytest.MonkeyPatch) -> RegistryTools:
    @contextmanager
    def open_registry(_settings: Settings) -> Iterator[RegistryTools]:
        yield tools

    monkeypatch.setattr(bootstrap, "open_registry", open_registry, raising=False)
    return tools


@pytest.fixture
def remote(tmp_path: Path) -> ModelRemote:
    return ModelRemote.create(tmp_path / "hub" / "tiny.git")


@pytest.fixture
def cloned(hyprstream: Command, remote: ModelRemote) -> ModelRemote:
    """The remote, cloned as `tiny`."""
    assert hyprstream("clone", remote.url).code == 0
    return remote


@pytest.fixture
def pulled(hyprstream: Command, tmp_path: Path) -> Path:
    """A file, pulled as `tiny`."""
    file = tmp_path / "Tiny.gguf"
    file.write_bytes(gguf("First"))
    assert hyprstream("pull", str(file)).code == 0
    return file


def as_json(outcome: Outcome) -> object:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def worktree(registry: Registry, branch: str = "main") -> Path:
    return registry.repository("tiny").worktree_path(branch)


def test_a_clone_says_what_came_and_a_second_one_that_it_is_there(hyprstream, remote):
    first = hyprstream("clone", remote.url)
    assert (first.code, first.out) == (0, "")
    assert re.search(r"^cloned tiny \(1\.\d+ kB\)$", first.err, re.MULTILINE)
    assert "is cloned already" in hyprstream("clone", remote.url).err


def test_a_clone_for_scripts_ends_with_what_came(hyprstream, remote):
    lines = hyprstream("clone", remote.url, "--name", "mine", "--json").out.splitlines()
    last = json.loads(lines[-1])
    assert (last["event"], last["is_new"], last["entry"]["ref"]) == ("cloned", True, "mine:main")
    assert last["entry"]["commit"] == remote.commit("main")


def test_a_full_clone_has_a_worktree_of_every_branch(hyprstream, remote):
    assert hyprstream("clone", remote.url, "--full").code == 0
    listed = as_json(hyprstream("list", "--json"))
    assert [one["ref"] for one in listed] == ["tiny:experiment", "tiny:main"]


def test_a_clone_of_what_is_not_there_fails_in_one_line(hyprstream, tmp_path):
    outcome = hyprstream("clone", (tmp_path / "absent.git").as_uri())
    assert outcome.code == 1
    assert "error: " in outcome.err and "Traceback" not in outcome.err
    assert hyprstream("list", "--json").out.strip() == "[]"


def test_the_list_has_uuid_commit_state_and_sizes(hyprstream, cloned, registry):
    header, line = hyprstream("list").out.splitlines()
    assert header.split() == [
        "NAME:REF",
        "UUID",
        "COMMIT",
        "STATE",
        "SIZE",
        "SHARED",
        "QUANT",
        "SOURCE",
    ]
    cells = line.split()
    assert cells[0] == "tiny:main"
    assert registry.id_of("tiny").startswith(cells[1])
    assert cloned.commit("main").startswith(cells[2])
    assert cells[3] == "clean"

    (listed,) = as_json(hyprstream("list", "--json"))
    assert re.fullmatch(UUID, listed["id"])
    assert listed["commit"] == cloned.commit("main")
    assert listed["facts"]["quantization"] == "Q4_0"
    assert Path(listed["path"]).read_bytes() == gguf("Second")


def test_a_changed_worktree_is_listed_as_dirty(hyprstream, cloned, registry):
    (worktree(registry) / "notes.txt").write_text("x")
    (listed,) = as_json(hyprstream("list", "--json"))
    assert listed["is_dirty"] is True


@pytest.mark.parametrize("version", ["v1.0", "commit", "experiment"])
def test_a_version_is_inspected_by_tag_commit_and_branch(hyprstream, cloned, version):
    commit = cloned.commit("v1.0" if version == "commit" else version)
    written = commit[:8] if version == "commit" else version
    found = as_json(hyprstream("inspect", f"tiny:{written}", "--json"))
    assert found["commit"]["id"] == commit
    assert found["tags"] == {"v1.0": cloned.commit("v1.0")}
    assert found["remotes"] == {"origin": cloned.url}
    assert {file["path"] for file in found["files"]} >= {"README.md", "model.gguf"}


def test_inspecting_tells_a_person_the_same(hyprstream, cloned, registry):
    said = hyprstream("inspect", "tiny").out
    for fact in (registry.id_of("tiny"), cloned.commit("main"), cloned.url, "Q4_0", "README.md"):
        assert fact in said


def test_a_version_that_is_not_there_is_not_replaced_by_another(hyprstream, cloned):
    outcome = hyprstream("inspect", "tiny:v9")
    assert (outcome.code, outcome.out) == (3, "")


def test_what_is_changed_committed_and_undone_in_a_worktree(hyprstream, pulled, registry):
    tree = worktree(registry)
    (tree / "README.md").write_text("# Tiny\n")
    status = as_json(hyprstream("status", "tiny", "--json"))
    assert [(c["path"], c["kind"]) for c in status["changes"]] == [("README.md", "added")]
    assert "added     README.md" in hyprstream("status").out

    made = as_json(hyprstream("commit", "tiny", "-m", "Say what it is", "--json"))
    newest, *_ = as_json(hyprstream("log", "tiny", "--json"))
    assert (newest["id"], newest["message"].strip()) == (made["commit"], "Say what it is")
    assert "clean" in hyprstream("status", "tiny").out
    assert hyprstream("commit", "tiny", "-m", "Again").code == 1


def test_a_tag_can_be_inspected_and_not_changed(hyprstream, cloned):
    assert hyprstream("tag", "tiny", "v2.0", "-m", "Second").code == 0
    assert "v2.0" in hyprstream("tag", "tiny").out
    refused = hyprstream("commit", "tiny:v2.0", "-m", "x", "--allow-empty")
    assert refused.code == 1
    assert "hyprstream branch tiny NAME --from v2.0" in refused.err
    assert hyprstream("tag", "tiny", "v2.0", "--delete").code == 0
    assert "v2.0" not in hyprstream("tag", "tiny").out


def test_a_branch_has_a_worktree_and_can_be_deleted(hyprstream, pulled, registry):
    made = as_json(hyprstream("branch", "tiny", "lora/medical", "--json"))
    assert Path(made["path"], "model.gguf").read_bytes() == gguf("First")
    assert {entry.ref.full for entry in registry.entries()} == {"tiny:main", "tiny:lora/medical"}
    branches = [line.split()[0] for line in hyprstream("branch", "tiny").out.splitlines()]
    assert branches == ["BRANCH", "lora/medical", "main"]

    assert hyprstream("branch", "tiny", "lora/medical", "--delete").code == 0
    assert not Path(made["path"]).exists()


def test_two_versions_are_compared_in_a_table(hyprstream, cloned):
    lines = hyprstream("diff", "tiny:v1.0", "tiny:experiment").out.splitlines()
    assert lines[0].split() == ["WHAT", "tiny:v1.0", "tiny:experiment"]
    assert lines[1].split() == ["evals", "evals/mmlu.json", "mmlu.accuracy", "-", "0.25"]
    found = as_json(hyprstream("diff", "tiny:v1.0", "tiny:main", "--json"))
    assert [(d["topic"], d["name"]) for d in found["differences"]] == [("weights", "model.gguf")]
    assert "are the same" in hyprstream("diff", "tiny", "tiny:main").err


def test_a_merge_moves_a_branch_along(hyprstream, pulled, registry):
    hyprstream("branch", "tiny", "next")
    (worktree(registry, "next") / "README.md").write_text("next\n")
    made = as_json(hyprstream("commit", "tiny:next", "-m", "Next", "--json"))
    merged = as_json(hyprstream("merge", "tiny:main", "next", "--json"))
    assert (merged["commit"], merged["is_fast_forward"]) == (made["commit"], True)
    assert (worktree(registry) / "README.md").read_text() == "next\n"


def test_conflicts_wait_to_be_settled_or_given_up(hyprstream, pulled, registry):
    hyprstream("branch", "tiny", "next")
    for branch in ("main", "next"):
        (worktree(registry, branch) / "README.md").write_text(f"{branch}\n")
        assert hyprstream("commit", f"tiny:{branch}", "-m", branch).code == 0
    before = registry.repository("tiny").branches()["main"]

    refused = hyprstream("merge", "tiny:main", "next")
    assert refused.code == 1
    assert "README.md" in refused.err and "--continue" in refused.err
    assert hyprstream("merge", "tiny:main", "--abort").code == 0
    assert registry.repository("tiny").branches()["main"] == before

    assert hyprstream("merge", "tiny:main", "next", "--json").code == 1
    assert hyprstream("merge", "tiny:main", "--continue").code == 1
    (worktree(registry) / "README.md").write_text("both\n")
    assert hyprstream("merge", "tiny:main", "--continue", "-m", "Both").code == 0
    assert hyprstream("log", "tiny").out.splitlines()[0].endswith("Both")


def test_a_conflict_is_settled_by_one_sides_files(hyprstream, pulled, registry):
    hyprstream("branch", "tiny", "next")
    for branch in ("main", "next"):
        (worktree(registry, branch) / "README.md").write_text(f"{branch}\n")
        hyprstream("commit", f"tiny:{branch}", "-m", branch)
    assert hyprstream("merge", "tiny:main", "next").code == 1
    assert hyprstream("merge", "tiny:main", "--continue", "--take", "theirs").code == 0
    assert (worktree(registry) / "README.md").read_text() == "next\n"


@pytest.mark.parametrize("way", [[], ["next", "--abort"], ["--abort", "--continue"]])
def test_a_merge_is_begun_or_ended_and_not_both(hyprstream, pulled, way):
    assert hyprstream("merge", "tiny:main", *way).code == 2


def test_the_files_of_a_branch_come_and_go(hyprstream, cloned, registry):
    assert hyprstream("worktree", "add", "tiny", "experiment").code == 0
    trees = as_json(hyprstream("worktree", "list", "tiny", "--json"))
    assert (trees["main"]["is_dirty"], set(trees)) == (False, {"main", "experiment"})
    info = hyprstream("worktree", "info", "tiny", "experiment").out
    assert cloned.commit("experiment") in info and "clean" in info

    path = worktree(registry, "experiment")
    (path / "notes.txt").write_text("x")
    assert hyprstream("worktree", "remove", "tiny", "experiment").code == 1
    assert hyprstream("worktree", "remove", "tiny", "experiment", "--force").code == 0
    assert not path.exists()
    assert "experiment" in hyprstream("branch", "tiny").out


def test_a_checkout_brings_back_what_was_committed(hyprstream, pulled, registry):
    (worktree(registry) / "model.gguf").unlink()
    assert hyprstream("checkout", "tiny").code == 1
    assert hyprstream("checkout", "tiny", "--force").code == 0
    assert (worktree(registry) / "model.gguf").read_bytes() == gguf("First")


def test_a_tag_is_checked_out_as_a_branch(hyprstream, cloned, registry):
    assert hyprstream("checkout", "tiny", "v1.0").code == 1
    assert hyprstream("checkout", "tiny", "v1.0", "-b", "from-v1").code == 0
    assert (worktree(registry, "from-v1") / "model.gguf").read_bytes() == gguf("First")


def test_remotes_are_named_changed_and_forgotten(hyprstream, pulled, remote):
    assert "hyprstream remote add" in hyprstream("remote", "list", "tiny").err
    hyprstream("remote", "add", "tiny", "origin", "https://example.com/a.git")
    hyprstream("remote", "set-url", "tiny", "origin", remote.url)
    assert hyprstream("remote", "list", "tiny").out.split() == ["origin", remote.url]
    hyprstream("remote", "rename", "tiny", "origin", "hub")
    assert as_json(hyprstream("remote", "list", "tiny", "--json")) == {"hub": remote.url}
    assert hyprstream("remote", "remove", "tiny", "hub").code == 0
    assert as_json(hyprstream("remote", "list", "tiny", "--json")) == {}


@pytest.mark.parametrize("words", [[], ["main"], ["origin"], ["origin", "main"]])
def test_a_cloned_model_is_brought_up_to_date(hyprstream, cloned, registry, words):
    old, new = cloned.commit("main"), cloned.advance()
    said = hyprstream("pull", "tiny", *words)
    assert (said.code, said.out) == (0, "")
    assert f"updated tiny:main from {old[:8]} to {new[:8]}" in said.err
    assert (worktree(registry) / "model.gguf").read_bytes() == gguf("Third")
    assert "tiny:main is up to date" in hyprstream("pull", "tiny").err


def test_a_remote_or_branch_means_nothing_for_a_model_that_was_not_cloned(hyprstream, pulled):
    outcome = hyprstream("pull", "tiny", "origin")
    assert outcome.code == 2
    assert "hyprstream remote add tiny origin URL" in outcome.err


def test_a_commit_is_pushed_with_its_large_files(hyprstream, cloned, registry):
    weights = worktree(registry) / "model.gguf"
    weights.unlink()
    weights.write_bytes(gguf("Mine"))
    made = as_json(hyprstream("commit", "tiny", "-m", "Mine", "--json"))["commit"]
    said = hyprstream("push", "tiny", "origin", "main")
    assert (said.code, said.out) == (0, "")
    assert "pushed tiny:main to origin" in said.err
    assert cloned.commit("main") == made
    stored = [path.read_bytes() for path in (cloned.path / "lfs").rglob("*") if path.is_file()]
    assert gguf("Mine") in stored


def test_a_push_to_an_unknown_remote_names_the_known_ones(hyprstream, cloned):
    outcome = hyprstream("push", "tiny", "upstream")
    assert outcome.code == 3
    assert "origin" in outcome.err


def test_a_removal_says_what_goes_and_needs_a_yes(hyprstream, cloned, registry):
    hyprstream("worktree", "add", "tiny", "experiment")
    refused = hyprstream("remove", "tiny")
    assert refused.code == 2
    assert "2 worktrees" in refused.err and "hyprstream remove tiny --yes" in refused.err
    assert registry.names() == ["tiny"]

    assert hyprstream("remove", "tiny", "--yes").code == 0
    assert registry.names() == []
    assert hyprstream("remove", "tiny", "--yes").code == 3


def test_removing_a_branch_leaves_the_rest(hyprstream, cloned, registry):
    hyprstream("worktree", "add", "tiny", "experiment")
    removed = as_json(hyprstream("remove", "tiny:experiment", "--yes", "--json"))
    assert (removed["removed"], removed["is_whole_model"]) == ("tiny:experiment", False)
    assert [entry.ref.full for entry in registry.entries()] == ["tiny:main"]
    assert "experiment" not in registry.repository("tiny").branches()


def test_what_is_not_committed_is_removed_by_force_only(hyprstream, cloned, registry):
    (worktree(registry) / "notes.txt").write_text("x")
    outcome = hyprstream("remove", "tiny", "--yes")
    assert outcome.code == 1
    assert "--force" in outcome.err
    assert hyprstream("remove", "tiny", "--yes", "--force").code == 0


def test_a_removal_is_undone_by_the_registrys_history(hyprstream, pulled, registry):
    assert hyprstream("remove", "tiny", "--yes").code == 0
    newest, *_ = as_json(hyprstream("registry", "log", "--json"))
    assert "tiny" in newest["message"]
    assert hyprstream("registry", "undo").code == 0
    assert registry.names() == ["tiny"]


def test_collecting_says_what_it_frees(hyprstream, pulled, registry):
    hyprstream("remove", "tiny", "--yes")
    report = as_json(hyprstream("gc", "--dry-run", "--json"))
    assert (report["is_dry_run"], report["n_blobs"]) == (True, 1)
    assert re.match(r"would free \d.* kB: 1 large file, ", hyprstream("gc", "--dry-run").out)
    assert re.match(r"freed \d.* kB: 1 large file, ", hyprstream("gc").out)
    assert list(registry.blobs) == []


def test_broken_bytes_are_found_and_fetched_again(hyprstream, cloned, registry):
    (digest,) = list(registry.blobs)
    path = registry.blobs.path(digest)
    path.chmod(0o644)
    path.write_bytes(b"rot" + path.read_bytes()[3:])
    outcome = hyprstream("verify")
    assert (outcome.code, outcome.out) == (0, "1 repaired\n")
    assert registry.blobs.verify(digest)


def test_broken_bytes_nobody_else_has_are_reported(hyprstream, pulled, registry):
    pulled.unlink()
    (digest,) = list(registry.blobs)
    path = registry.blobs.path(digest)
    path.chmod(0o644)
    path.write_bytes(b"rot" + path.read_bytes()[3:])
    outcome = hyprstream("verify", "tiny")
    assert outcome.code == 1
    assert "1 broken" in outcome.err


def test_sharing_is_reported(hyprstream, pulled):
    hyprstream("branch", "tiny", "copy")
    report = as_json(hyprstream("dedup-report", "--json"))
    assert (report["n_models"], report["n_worktrees"], report["n_blobs"]) == (1, 2, 1)
    assert report["saved_bytes"] > 0
    assert "2 worktrees" in hyprstream("dedup-report").out


def test_a_model_is_renamed_and_keeps_its_uuid(hyprstream, pulled, registry):
    before = registry.id_of("tiny")
    assert hyprstream("rename", "tiny", "small").code == 0
    assert registry.id_of("small") == before
    assert hyprstream("inspect", before).code == 0


def test_what_a_policy_hides_is_in_no_list_and_not_there(hyprstream, cloned, registry, monkeypatch):
    hyprstream("worktree", "add", "tiny", "experiment")
    hidden = Forbids((Action.QUERY, "model:tiny:experiment"))
    use(RegistryTools.of(hidden, registry), monkeypatch)

    assert [one["ref"] for one in as_json(hyprstream("list", "--json"))] == ["tiny:main"]
    assert set(as_json(hyprstream("branch", "tiny", "--json"))) == {"main"}
    by_commit = f"tiny:{cloned.commit('experiment')[:10]}"
    for ref in ("tiny:experiment", by_commit):
        there, absent = hyprstream("inspect", ref), hyprstream("inspect", "tiny:absent")
        assert there.code == absent.code == 3
        assert there.err.replace(ref, "tiny:absent") == absent.err


def test_what_a_policy_does_not_let_change_is_refused(hyprstream, cloned, registry, monkeypatch):
    frozen = Forbids((Action.WRITE, "model:tiny:main"), (Action.WRITE, "registry"))
    use(RegistryTools.of(frozen, registry), monkeypatch)
    for command in (
        ["commit", "tiny", "-m", "x", "--allow-empty"],
        ["merge", "tiny", "experiment"],
        ["pull", "tiny"],
        ["push", "tiny"],
        ["remove", "tiny", "--yes"],
        ["clone", cloned.url, "--name", "other"],
    ):
        assert hyprstream(*command).code == 4, command


def test_weights_named_by_their_digest_are_inspected_logged_and_compared(hyprstream, cloned):
    newest = cloned.commit("main")
    digest = as_json(hyprstream("inspect", "tiny", "--json"))["model"]["sha256"]
    named = f"tiny@sha256:{digest}"
    assert newest in hyprstream("inspect", named).out
    assert as_json(hyprstream("log", named, "--json"))[0]["id"] == newest
    assert as_json(hyprstream("diff", named, "tiny", "--json"))["differences"] == []
    assert hyprstream("merge", "tiny", named).code == 0


def test_a_commit_needs_a_message(hyprstream, pulled, registry):
    (worktree(registry) / "README.md").write_text("# Mine\n")
    outcome = hyprstream("commit", "tiny", "-m", " ")
    assert outcome.code == 2
    assert "-m" in outcome.err


def test_a_commit_somebody_made_without_a_message_is_inspected(hyprstream, remote, tmp_path):
    work = tmp_path / "hub" / "tiny.git-work"
    git("checkout", "--quiet", "main", at=work)
    git("commit", "--quiet", "--allow-empty", "--allow-empty-message", "-m", "", at=work)
    git("push", "--quiet", str(remote.path), "main", at=work)
    assert hyprstream("clone", remote.url).code == 0
    for command in ("inspect", "log"):
        assert remote.commit("main")[:8] in hyprstream(command, "tiny").out


def test_a_version_with_a_slash_is_no_path():
    assert options.resolve("tiny:lora/medical") == (ModelRef("tiny", "lora/medical"), [])


def test_a_file_that_is_called_as_a_model_does_not_stand_in_for_it(
    hyprstream, pulled, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_text("notes")
    assert as_json(hyprstream("show", "tiny", "--json"))["ref"] == "tiny:main"


def test_undoing_what_the_registry_never_did_names_its_log(hyprstream, pulled):
    outcome = hyprstream("registry", "undo", "nope")
    assert outcome.code == 3
    assert "'nope'" in outcome.err and "hyprstream registry log" in outcome.err


@pytest.mark.parametrize("command", ["branch", "tag"])
@pytest.mark.parametrize(("first", "second"), [("lora", "lora/one"), ("lora/one", "lora")])
def test_a_name_that_begins_another_is_refused(hyprstream, pulled, command, first, second):
    assert hyprstream(command, "tiny", first).code == 0
    outcome = hyprstream(command, "tiny", second)
    assert outcome.code == 1
    assert repr(first) in outcome.err and "choose another name" in outcome.err
