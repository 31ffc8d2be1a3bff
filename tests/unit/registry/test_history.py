"""One text under git: what is a draft, what runs, what was."""

import stat
from pathlib import Path

import pytest

from hyprstream.core.errors import Conflict, Invalid, NotFound, TooLarge
from hyprstream.core.ports import TextHistory
from hyprstream.registry.git import Git
from hyprstream.registry.history import MAX_TEXT_BYTES, GitTextHistory
from support.repositories import git


@pytest.fixture
def history(tmp_path: Path) -> GitTextHistory:
    return GitTextHistory(tmp_path / "policy", "policy.csv", author="alice <local:alice>")


def committed(history: GitTextHistory, *texts: str) -> list[str]:
    """The ids of versions that say these texts."""
    ids: list[str] = []
    for text in texts:
        history.write_draft(text)
        version = history.commit(f"say {text}")
        assert version is not None
        ids.append(version.id)
    return ids


def test_it_is_the_history_the_policy_asks_for(history: GitTextHistory) -> None:
    port: TextHistory = history
    assert port.running_id() is None


def test_before_the_first_commit_there_is_nothing(history: GitTextHistory) -> None:
    assert (history.draft(), history.running_id(), history.log()) == (None, None, [])
    with pytest.raises(NotFound, match="no version 'HEAD'"):
        history.at()
    with pytest.raises(NotFound, match="no file"):
        history.commit("nothing")


def test_a_commit_without_any_identity_makes_the_draft_the_running_version(
    history: GitTextHistory,
) -> None:
    history.write_draft("p, alice\n")
    version = history.commit("allow alice\n\nbecause she asked")
    assert version is not None
    assert version.id == history.running_id()
    assert version.message == "allow alice\n\nbecause she asked"
    assert version.author == "alice <local:alice>"
    assert version.parents == ()
    assert history.at() == "p, alice\n"


def test_a_draft_that_says_what_runs_is_no_version(history: GitTextHistory) -> None:
    committed(history, "a")
    assert history.commit("again") is None
    history.write_draft("a")
    assert history.commit("and again") is None
    assert len(history.log()) == 1


def test_a_draft_does_not_run_before_it_is_committed(history: GitTextHistory) -> None:
    [first] = committed(history, "a")
    history.write_draft("b")
    assert (history.draft(), history.at(), history.running_id()) == ("b", "a", first)


def test_versions_are_listed_newest_first_and_read_by_any_name(history: GitTextHistory) -> None:
    first, second, third = committed(history, "a", "b", "c")
    assert [version.id for version in history.log()] == [third, second, first]
    assert [version.id for version in history.log(limit=2)] == [third, second]
    assert history.log()[0].parents == (second,)
    for name, text in {first: "a", first[:10]: "a", "HEAD~1": "b", "HEAD": "c"}.items():
        assert history.at(name) == text


@pytest.mark.parametrize(
    "revision", ["HEAD~9", "nope", "--all", "HEAD:policy.csv", ":/say", "", "x" * 300, "a\nb"]
)
def test_a_version_that_is_none_is_not_found(history: GitTextHistory, revision: str) -> None:
    committed(history, "a")
    with pytest.raises(NotFound) as caught:
        history.at(revision)
    assert "it has 1" in str(caught.value.hint)


def test_the_running_version_is_read_without_a_process(
    history: GitTextHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    [first] = committed(history, "a")
    monkeypatch.setenv("PATH", "/nowhere")
    assert history.running_id() == first


def test_the_running_version_is_found_after_git_packed_its_references(
    history: GitTextHistory,
) -> None:
    [first] = committed(history, "a")
    git(history.draft_path.parent, "pack-refs", "--all")
    assert history.running_id() == first


def test_a_commit_made_by_hand_runs_too_and_leaves_other_files_alone(
    history: GitTextHistory,
) -> None:
    committed(history, "a")
    directory = history.draft_path.parent
    (directory / "NOTES").write_text("why")
    git(directory, "add", "NOTES")
    git(directory, "commit", "-q", "-m", "by hand")
    committed(history, "b")
    assert git(directory, "show", "HEAD:NOTES") == "why"
    assert git(directory, "status", "--short") == ""
    assert [version.author for version in history.log()][1] == "somebody <somebody@example.org>"


def test_hooks_of_the_directory_do_not_run(history: GitTextHistory, tmp_path: Path) -> None:
    committed(history, "a")
    hook = history.draft_path.parent / ".git/hooks/reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    hook.chmod(0o755)
    committed(history, "b")
    assert not (tmp_path / "ran").exists()


def test_nobody_else_may_read_the_directory_or_the_draft(history: GitTextHistory) -> None:
    committed(history, "a")
    assert stat.S_IMODE(history.draft_path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(history.draft_path.stat().st_mode) == 0o600


def test_a_draft_that_is_no_text_is_refused(history: GitTextHistory) -> None:
    history.write_draft("a")
    history.draft_path.write_bytes(b"ab\xff")
    with pytest.raises(Invalid, match="not UTF-8 at byte 2"):
        history.draft()
    history.draft_path.write_bytes(b"x" * (MAX_TEXT_BYTES + 1))
    with pytest.raises(TooLarge):
        history.draft()


def test_locks_that_a_crash_left_do_not_stop_a_commit(history: GitTextHistory) -> None:
    committed(history, "a")
    directory = history.draft_path.parent / ".git"
    for name in ("HEAD.lock", "refs/heads/main.lock", "index.lock"):
        (directory / name).write_text("")
    [second] = committed(history, "b")
    assert history.running_id() == second


def test_two_commits_at_once_do_not_lose_each_other(history: GitTextHistory) -> None:
    committed(history, "a")
    other = Git(history.draft_path.parent / ".git")
    history.write_draft("b")
    with other.exclusive() as git_:
        commit = git_.run("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "other").decode()
        git_.run("update-ref", "HEAD", commit.strip())
    version = history.commit("mine")
    assert version is not None
    assert version.parents == (commit.strip(),)


def test_a_repository_somebody_is_changing_for_long_is_a_conflict(
    history: GitTextHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed(history, "a")
    history.write_draft("b")
    waits = iter([0.0, 0.0, 100.0])
    monkeypatch.setattr("hyprstream.registry.git.time.monotonic", lambda: next(waits, 100.0))
    with Git(history.draft_path.parent / ".git").exclusive(), pytest.raises(Conflict):
        history.commit("too late")
