"""The door to git: what it starts, what it refuses, what it says when git fails."""

import os
import stat
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyprstream.core.errors import (
    Conflict,
    Corrupt,
    HyprstreamError,
    Invalid,
    NotFound,
    SourceError,
    TooLarge,
    Unavailable,
)
from hyprstream.registry.git import NO_COMMIT, Git, GitProgress
from hyprstream.registry.git_errors import cleaned
from hyprstream.registry.remote_urls import check_remote_url, host_of, transport_of
from support.repositories import bare_repository, blob, commit_entries, git

FETCH = ("fetch", "--progress", "--no-write-fetch-head", "--")
ALL = "+refs/heads/*:refs/remotes/origin/*"


@pytest.fixture
def ours(tmp_path: Path) -> Git:
    return Git.init(tmp_path / "ours" / "repo.git")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    repository = bare_repository(tmp_path / "theirs.git")
    commit_entries(repository, {"file": ("100644", blob(repository, b"content"))})
    return repository


def write_commit(repository: Git) -> str:
    tree = repository.run("mktree").decode().strip()
    return repository.run("commit-tree", tree, "-m", "empty").decode().strip()


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


# -- what is not asked: identity, configuration, hooks, environment ----------------------------------------------------


def test_a_commit_needs_no_identity_of_the_user(ours: Git) -> None:
    commit = write_commit(ours)
    author = ours.run("log", "-1", "--format=%an <%ae> %cn <%ce>", commit).decode().strip()
    assert author == "hyprstream <hyprstream@localhost> hyprstream <hyprstream@localhost>"


def test_the_users_configuration_is_not_read(ours: Git, home: Path) -> None:
    (home / ".gitconfig").write_text("[user]\n\tname = of the user\n[core]\n\tbroken\n[[")
    assert b"of the user" not in ours.run("log", "-1", "--format=%an", write_commit(ours))


def test_git_variables_of_the_environment_do_not_reach_git(
    ours: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "of the environment")
    monkeypatch.setenv("GIT_TRACE", str(tmp_path / "trace"))
    assert b"environment" not in ours.run("log", "-1", "--format=%an", write_commit(ours))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("hook", ["reference-transaction", "post-update", "update"])
def test_hooks_do_not_run(ours: Git, tmp_path: Path, hook: str) -> None:
    program(ours.git_dir / "hooks" / hook, f"touch {tmp_path / 'ran'}")
    ours.run("update-ref", "refs/heads/main", write_commit(ours), NO_COMMIT)
    assert not (tmp_path / "ran").exists()


def test_configuration_of_the_repository_starts_no_program(
    ours: Git, theirs: Path, tmp_path: Path
) -> None:
    evil = str(program(tmp_path / "evil", f"touch {tmp_path / 'ran'}"))
    for key in (
        "core.fsmonitor",
        "core.sshCommand",
        "core.pager",
        "credential.helper",
        "gpg.program",
    ):
        ours.run("config", key, evil)
    ours.run("config", "remote.origin.uploadpack", evil)
    ours.run("config", "core.hooksPath", str(tmp_path))
    url = theirs.as_uri()
    list(ours.stream(*FETCH, url, ALL, url=url))
    ours.run("log", "--max-count=1", ours.refs()["refs/remotes/origin/main"].oid)
    with pytest.raises(SourceError):
        list(ours.stream(*FETCH, "ssh://127.0.0.1:1/x", ALL, url="ssh://127.0.0.1:1/x"))
    assert not (tmp_path / "ran").exists()


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "transport", "host"),
    [
        ("https://huggingface.co/a/b", "https", "huggingface.co"),
        ("https://huggingface.co:8443/a/b", "https", "huggingface.co"),
        ("http://127.0.0.1:8000/a.git", "http", "127.0.0.1"),
        ("http://[::1]:8000/a.git", "http", "::1"),
        ("ssh://git@example.org/a.git", "ssh", "example.org"),
        ("git@example.org:a/b.git", "ssh", "example.org"),
        ("file:///srv/a.git", "file", None),
    ],
)
def test_an_address_of_a_repository_is_taken_as_it_is(
    url: str, transport: str, host: str | None
) -> None:
    assert check_remote_url(url) == url
    assert (transport_of(url), host_of(url)) == (transport, host)


def test_a_path_becomes_a_file_address(tmp_path: Path) -> None:
    assert check_remote_url(str(tmp_path / "a b")) == (tmp_path / "a b").as_uri()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ext::sh -c touch% /tmp/x",
        "fd::17",
        "--upload-pack=touch x",
        "-oProxyCommand=x",
        "git://example.org/a",
        "ftp://example.org/a",
        "http://example.org/a",
        "https://",
        "https://-oProxyCommand=x/a",
        "ssh://-oProxyCommand=x/a",
        "ssh://-lroot@example.org/a",
        "ssh://example.org:port/a",
        "https://example.org/a\nb",
        "https://example.org/a\x1b[2J",
        "https://example.org/a?token=1",
        "file://example.org/a",
        "https://example.org/" + "a" * 3000,
    ],
)
def test_a_hostile_address_is_refused_before_git_sees_it(ours: Git, url: str) -> None:
    with pytest.raises(Invalid):
        check_remote_url(url)
    with pytest.raises(Invalid):
        list(ours.stream(*FETCH, url, ALL, url=url))


@pytest.mark.parametrize("url", ["https://u:s3cret@example.org/a", "https://s3cret@example.org/a"])
def test_an_address_with_a_password_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_remote_url(url)
    assert "s3cret" not in caught.value.message + str(caught.value.hint)
    assert "HF_TOKEN" in str(caught.value.hint)


def test_git_reaches_only_the_kind_of_address_it_was_given(ours: Git, theirs: Path) -> None:
    with pytest.raises(SourceError, match="not allowed"):
        list(ours.stream(*FETCH, theirs.as_uri(), ALL, url="https://example.org/a"))
    with pytest.raises(HyprstreamError, match="not allowed"):
        ours.run("ls-remote", "--", theirs.as_uri())


# -- fetching ----------------------------------------------------------------------------------------------------------


def test_a_fetch_tells_how_far_it_is(ours: Git, theirs: Path) -> None:
    url = theirs.as_uri()
    events = list(ours.stream(*FETCH, url, ALL, url=url))
    assert {event.phase for event in events} >= {"Counting objects"}
    assert any(event.completed == event.total for event in events)
    assert ours.refs()["refs/remotes/origin/main"].oid == git(theirs, "rev-parse", "main").strip()


def test_a_malformed_object_is_refused_on_its_way(ours: Git, theirs: Path) -> None:
    commit_entries(theirs, {".git": ("100644", blob(theirs, b"x"))})
    with pytest.raises(SourceError, match="malformed"):
        list(ours.stream(*FETCH, theirs.as_uri(), ALL, url=theirs.as_uri()))
    assert ours.refs() == {}


def test_a_fetch_of_more_than_allowed_is_ended(ours: Git, theirs: Path) -> None:
    commit_entries(theirs, {"random": ("100644", blob(theirs, os.urandom(100_000)))})
    with pytest.raises(SourceError, match="more than 1000 bytes"):
        list(ours.stream(*FETCH, theirs.as_uri(), ALL, url=theirs.as_uri(), max_received=1000))


def test_leaving_a_fetch_ends_git(ours: Git, theirs: Path) -> None:
    before = threading.active_count()
    with closing(ours.stream(*FETCH, theirs.as_uri(), ALL, url=theirs.as_uri())) as events:
        assert isinstance(next(events), GitProgress)
    assert threading.active_count() == before
    list(ours.stream(*FETCH, theirs.as_uri(), ALL, url=theirs.as_uri()))
    assert "refs/remotes/origin/main" in ours.refs()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///nowhere/at/all", "no repository"),
        ("https://127.0.0.1:1/a", "git fetch failed"),
    ],
)
def test_a_remote_that_cannot_be_reached_is_a_source_error(
    ours: Git, url: str, message: str
) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        list(ours.stream(*FETCH, url, ALL, url=url, token="hf_s3cret"))
    assert "s3cret" not in str(caught.value)
    assert caught.value.hint


def test_a_missing_branch_of_a_remote_is_not_found(ours: Git, theirs: Path) -> None:
    url = theirs.as_uri()
    with pytest.raises(NotFound):
        list(ours.stream(*FETCH, url, "refs/heads/nope:refs/remotes/origin/nope", url=url))


def test_a_token_is_in_no_argument_of_git(
    ours: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.check_output(["sh", "-c", "command -v git"]).decode().strip()
    program(tmp_path / "bin" / "git", f'echo "$@" >> {tmp_path / "seen"}\nexec {real} "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    url = "https://127.0.0.1:1/a"
    with pytest.raises(SourceError):
        list(ours.stream(*FETCH, url, ALL, url=url, token="hf_s3cret"))
    seen = (tmp_path / "seen").read_text()
    assert url in seen
    assert "s3cret" not in seen
    assert "Authorization" not in seen


def test_what_git_says_is_shown_without_secrets_and_control_characters() -> None:
    said = "fatal: https://u:p@example.org/a \x1b[2Jhf_abc\nremote: x"
    assert cleaned(said, ["hf_abc"]) == "fatal: https://example.org/a  [2J***\nremote: x"


# -- limits and failures -----------------------------------------------------------------------------------------------


def test_a_silent_git_is_ended(ours: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin" / "git", "exec sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    began = time.monotonic()
    with pytest.raises(Unavailable, match="did not end"):
        ours.run("status", timeout=0.2)
    with pytest.raises(SourceError, match="said nothing"):
        list(ours.stream("fetch", url="https://example.org/a", silence=0.2))
    assert time.monotonic() - began < 30, "nobody waits for the sleep to end"


def test_an_endless_answer_is_refused(ours: Git) -> None:
    oid = ours.run("hash-object", "-w", "--stdin", stdin=b"x" * 10_000).decode().strip()
    with pytest.raises(TooLarge, match="more than 100 bytes"):
        ours.run("cat-file", "blob", oid, max_bytes=100)


def test_without_a_git_program_the_hint_says_to_install_it(
    ours: Git, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unavailable) as caught:
        ours.run("version")
    assert "install git" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("rev-parse", "--verify", "--end-of-options", "nope^{commit}"), NotFound),
        (("log", "nope", "--"), NotFound),
        (("cat-file", "blob", "nope"), NotFound),
    ],
)
def test_a_missing_revision_is_not_found(
    ours: Git, args: tuple[str, ...], error: type[HyprstreamError]
) -> None:
    with pytest.raises(error):
        ours.run(*args)


def test_a_branch_that_moved_is_a_conflict(ours: Git) -> None:
    commit = write_commit(ours)
    ours.run("update-ref", "refs/heads/main", commit, NO_COMMIT)
    with pytest.raises(Conflict):
        ours.run("update-ref", "refs/heads/main", commit, NO_COMMIT)
    with pytest.raises(Conflict):
        ours.run("update-ref", "refs/heads/main", commit, "1" * 40)


def test_a_damaged_object_is_corrupt(ours: Git) -> None:
    oid = ours.run("hash-object", "-w", "--stdin", stdin=b"content").decode().strip()
    path = ours.git_dir / "objects" / oid[:2] / oid[2:]
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    with pytest.raises(Corrupt):
        ours.run("cat-file", "blob", oid)


def test_a_blob_is_written_whole_and_never_over_a_file(ours: Git, tmp_path: Path) -> None:
    oid = ours.run("hash-object", "-w", "--stdin", stdin=b"content").decode().strip()
    ours.write_blob(oid, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"content"
    with pytest.raises(FileExistsError):
        ours.write_blob(oid, tmp_path / "file")
    with pytest.raises(HyprstreamError):
        ours.write_blob("1" * 40, tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


# -- the right to change -----------------------------------------------------------------------------------------------


def test_only_one_has_the_right_to_change_a_repository(ours: Git) -> None:
    with ours.exclusive(), pytest.raises(Conflict, match="another process"), ours.exclusive(wait=0):
        pass
    with ours.exclusive(wait=0):
        pass


def test_the_right_outlives_a_holder_whose_git_still_runs(
    ours: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program(tmp_path / "bin" / "git", f"cat {fifo}")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with ours.exclusive() as git_:
        started = git_._started(("status",), b"", {})  # pyright: ignore[reportPrivateUsage]
        process = started.__enter__()
    with pytest.raises(Conflict), ours.exclusive(wait=0):
        pass
    fifo.write_bytes(b"")
    process.wait()
    with ours.exclusive():
        pass
    started.__exit__(None, None, None)


def test_a_lock_that_a_killed_git_left_is_in_nobodys_way(ours: Git) -> None:
    (ours.git_dir / "refs/heads/main.lock").write_text("")
    (ours.git_dir / "packed-refs.lock").write_text("")
    with ours.exclusive() as git_:
        git_.run("update-ref", "refs/heads/main", write_commit(git_), NO_COMMIT)
        git_.run("pack-refs", "--all")
    assert list(ours.branches()) == ["main"]


def test_a_lock_of_a_transfer_that_goes_on_is_left_alone(ours: Git) -> None:
    lock = ours.git_dir / "refs/heads/main.lock"
    with ours.transferring():
        lock.write_text("")
        with ours.exclusive():
            pass
        assert lock.exists()


# -- references --------------------------------------------------------------------------------------------------------

_names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,6}(/[a-z0-9][a-z0-9._-]{0,6}){0,2}", fullmatch=True)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(names=st.lists(_names, max_size=8, unique=True), n_packed=st.integers(0, 8), data=st.data())
def test_references_read_as_files_are_those_git_lists(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], n_packed: int, data: st.DataObject
) -> None:
    repository = Git.init(tmp_path_factory.mktemp("refs") / "repo.git")
    first, second = write_commit(repository), write_commit(repository)
    for i, name in enumerate(names):
        if i == n_packed:
            repository.run("pack-refs", "--all")
        try:
            if data.draw(st.booleans()):
                repository.run(
                    "update-ref", f"refs/heads/{name}", data.draw(st.sampled_from([first, second]))
                )
            else:
                repository.run("tag", "-a", "-f", "-F", "-", "--", name, first, stdin=b"message")
        except HyprstreamError:
            continue  # git has its own rules for names, and for directories among them
    if names and data.draw(st.booleans()):
        repository.run("pack-refs", "--all", "--no-prune")
    listed = repository.run("for-each-ref", "--format=%(refname) %(objectname)").decode()
    assert {name: ref.oid for name, ref in repository.refs().items()} == dict(
        line.split(" ") for line in listed.splitlines()
    )
    peeled = repository.run(
        "for-each-ref", "--format=%(refname:lstrip=2) %(*objectname)", "refs/tags/"
    )
    assert repository.tags() == dict(line.split(" ") for line in peeled.decode().splitlines())


def test_a_tag_in_a_pack_is_peeled_by_git(ours: Git) -> None:
    commit = write_commit(ours)
    ours.run("tag", "-a", "-F", "-", "--", "v1", commit, stdin=b"message")
    ours.run("repack", "-a", "-d", "-q")
    assert ours.tags() == {"v1": commit}


def test_head_is_none_before_the_first_commit(ours: Git) -> None:
    assert (ours.head(), ours.head_branch) == (None, "main")
    commit = write_commit(ours)
    ours.run("update-ref", "HEAD", commit)
    assert ours.head() == commit == ours.branches()["main"]


@pytest.mark.parametrize("content", ["", "not an id", "ref: ../../etc/passwd", "1" * 39])
def test_a_damaged_reference_is_corrupt(ours: Git, content: str) -> None:
    (ours.git_dir / "refs/heads/main").write_text(content)
    with pytest.raises(Corrupt):
        ours.branches()
