"""What was decided is written down once, in order, and cannot be edited unnoticed."""

import fcntl
import io
import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.contextvars import bound_contextvars

from hyprstream.core.principal import (
    ANONYMOUS,
    POLICY,
    Action,
    Decision,
    Door,
    Principal,
    Resource,
)
from hyprstream.policy import audit
from hyprstream.policy.audit import Event, Finding, JsonAuditLog, grep, tail, verify
from hyprstream.policy.audit_chain import HEAD, LOG, Chain, lines_backwards

ALICE = Principal("token:alice", Door.CLI, credential="7f3a")
MODEL = Resource("model", "smollm2:main")
YES = Decision(True, "p, token:alice, *, model:*, infer, allow", 4)
NO = Decision(False, "no rule allows it")
SOON = 20.0


@contextmanager
def writing(directory: Path, **options: object) -> Iterator[JsonAuditLog]:
    log = JsonAuditLog(directory, **options)  # type: ignore[arg-type]
    try:
        yield log
    finally:
        log.close()


def write(directory: Path, n: int = 1, **options: object) -> None:
    """Write `n` decisions, each in a batch of its own."""
    for _ in range(n):
        with writing(directory, **options) as log:
            log.record(ALICE, Action.INFER, MODEL, YES)


def lines(directory: Path, name: str = LOG) -> list[bytes]:
    return (directory / name).read_bytes().splitlines(keepends=True)


def eventually(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not is_true():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.001)


def test_an_entry_says_who_did_what_to_what_and_why(tmp_path: Path) -> None:
    clock = datetime(2031, 5, 4, 3, 2, 1, 7, UTC).timestamp
    with (
        writing(tmp_path, clock=clock, version_of=lambda r: f"commit of {r}") as log,
        bound_contextvars(request_id="req_1"),
    ):
        log.record(ALICE, Action.INFER, MODEL, YES)
    [entry] = tail(tmp_path, 5)
    assert entry.seq == 1
    assert entry.time == "2031-05-04T03:02:01.000007+00:00"
    assert (entry.subject, entry.credential, entry.door) == ("token:alice", "7f3a", "cli")
    assert (entry.action, entry.resource) == ("infer", "model:smollm2:main")
    assert entry.version == "commit of model:smollm2:main"
    assert (entry.allowed, entry.rule, entry.line) == (True, YES.reason, 4)
    assert (entry.event, entry.request_id) == (Event.DECISION, "req_1")


def test_what_is_not_known_is_null(tmp_path: Path) -> None:
    with writing(tmp_path) as log:
        log.record(ANONYMOUS, Action.MANAGE, POLICY, NO)
    [entry] = tail(tmp_path, 1)
    assert (entry.credential, entry.version, entry.line, entry.request_id) == (None,) * 4
    assert entry.allowed is False


def test_a_resource_whose_version_cannot_be_told_is_still_written_down(tmp_path: Path) -> None:
    def fail(resource: Resource) -> str:
        raise OSError("the disk is gone")

    with writing(tmp_path, version_of=fail) as log:
        log.record(ALICE, Action.INFER, MODEL, YES)
    assert [entry.version for entry in tail(tmp_path, 2)] == [None]


def test_names_of_any_length_and_encoding_make_short_sound_lines(tmp_path: Path) -> None:
    with writing(tmp_path) as log:
        log.record(Principal("local:\udcff\n"), Action.INFER, Resource("model", "x" * 9999), YES)
    assert verify(tmp_path).problem is None
    [entry] = tail(tmp_path, 1)
    assert entry.subject == "local:\\udcff\n"
    assert len(entry.resource or "") == audit.MAX_TEXT


def test_only_the_owner_can_read_the_log(tmp_path: Path) -> None:
    directory = tmp_path / "audit"
    write(directory, 3, max_bytes=1)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


def test_a_log_nobody_wrote_to_leaves_no_trace_and_is_sound(tmp_path: Path) -> None:
    write(tmp_path / "audit", 0)
    with writing(tmp_path / "audit"):
        pass
    assert not (tmp_path / "audit").exists()
    report = verify(tmp_path / "audit")
    assert (report.n_entries, report.files, report.problem) == (0, (), None)


# The chain.


def test_the_chain_continues_from_process_to_process_and_file_to_file(tmp_path: Path) -> None:
    write(tmp_path, 5, max_bytes=800)
    report = verify(tmp_path)
    assert report.files == ("audit-000000000001.jsonl", "audit-000000000003.jsonl", LOG)
    assert (report.n_entries, report.problem) == (5, None)
    entries = tail(tmp_path, 9)
    assert [entry.seq for entry in entries] == [1, 2, 3, 4, 5]
    assert [entry.prev for entry in entries[1:]] == [entry.hash for entry in entries[:-1]]


def test_the_oldest_files_are_deleted_and_what_remains_is_sound(tmp_path: Path) -> None:
    write(tmp_path, 7, max_bytes=1, keep=2)
    report = verify(tmp_path)
    assert report.files == ("audit-000000000005.jsonl", "audit-000000000006.jsonl", LOG)
    assert report.problem is None
    (tmp_path / report.files[0]).unlink()
    assert verify(tmp_path).problem == Finding("audit-000000000006.jsonl", 1, "removed")


def written() -> dict[str, bytes]:
    """The files of a sound log of nine entries."""
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), 9, max_bytes=1100)
        assert verify(Path(name)).problem is None
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}


SOUND = written()
LOGS = sorted(SOUND.keys() - {HEAD})


@st.composite
def edits(draw: st.DrawFn) -> dict[str, bytes]:
    """The log after one edit."""
    name = draw(st.sampled_from(LOGS))
    content = SOUND[name]
    rows = content.splitlines(keepends=True)
    row = st.integers(0, len(rows) - 1)
    match draw(st.sampled_from(["change", "remove", "swap", "insert", "truncate"])):
        case "change":
            edited = bytearray(content)
            edited[draw(st.integers(0, len(content) - 1))] ^= draw(st.integers(1, 255))
            return SOUND | {name: bytes(edited)}
        case "remove":
            del rows[draw(row)]
        case "swap":
            i, j = draw(st.tuples(row, row).filter(lambda pair: pair[0] != pair[1]))
            rows[i], rows[j] = rows[j], rows[i]
        case "insert":
            foreign = SOUND[draw(st.sampled_from(LOGS))].splitlines(keepends=True)
            line = draw(st.sampled_from(foreign) | st.binary(max_size=80).map(lambda b: b + b"\n"))
            rows.insert(draw(st.integers(0, len(rows))), line)
        case _:
            return SOUND | {name: content[: draw(st.integers(0, len(content) - 1))]}
    return SOUND | {name: b"".join(rows)}


@given(edits())
@settings(max_examples=400, deadline=None)
def test_any_edit_is_found(edited: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        for file, content in edited.items():
            (Path(name) / file).write_bytes(content)
        assert verify(Path(name)).problem is not None


@given(st.sampled_from(LOGS))
def test_a_missing_file_is_found(missing: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        for file in SOUND.keys() - {missing}:
            (Path(name) / file).write_bytes(SOUND[file])
        problem = verify(Path(name)).problem
        assert problem is not None and problem.what in ("removed", "truncated")


def test_a_missing_head_is_found(tmp_path: Path) -> None:
    write(tmp_path, 2)
    (tmp_path / HEAD).unlink()
    assert verify(tmp_path).problem == Finding(HEAD, 0, "removed")


@pytest.mark.parametrize(
    ("order", "line", "what"),
    [
        ([0, 1, 3, 4], 3, "removed"),
        ([1, 2, 3, 4], 1, "removed"),
        ([0, 1, 2, 3], 4, "truncated"),
        ([0, 2, 1, 3, 4], 2, "reordered"),
        ([0, 1, 3, 4, 2], 3, "reordered"),
        ([0, 1, 1, 2, 3, 4], 3, "inserted"),
        ([0, 1, 2, 3, 4, 0], 6, "inserted"),
    ],
)
def test_the_report_names_the_place_and_what_happened(
    tmp_path: Path, order: list[int], line: int, what: str
) -> None:
    write(tmp_path, 5)
    rows = lines(tmp_path)
    (tmp_path / LOG).write_bytes(b"".join(rows[i] for i in order))
    assert verify(tmp_path).problem == Finding(LOG, line, what)  # type: ignore[arg-type]


def test_a_changed_line_is_told_from_an_inserted_and_a_cut_one(tmp_path: Path) -> None:
    write(tmp_path, 3)
    rows = lines(tmp_path)
    changed = rows[1].replace(b"token:alice", b"token:mallo")
    (tmp_path / LOG).write_bytes(b"".join([rows[0], changed, rows[2]]))
    assert verify(tmp_path).problem == Finding(LOG, 2, "changed")
    (tmp_path / LOG).write_bytes(b"".join([rows[0], b"{}\n", rows[1], rows[2]]))
    assert verify(tmp_path).problem == Finding(LOG, 2, "inserted")
    (tmp_path / LOG).write_bytes(b"".join(rows)[:-7])
    assert verify(tmp_path).problem == Finding(LOG, 3, "truncated")


def test_a_line_written_anew_with_a_hash_of_its_own_is_found(tmp_path: Path) -> None:
    write(tmp_path / "a", 3)
    with writing(tmp_path / "b") as log:
        log.record(ANONYMOUS, Action.INFER, MODEL, YES)
    ours, theirs = lines(tmp_path / "a"), lines(tmp_path / "b")
    (tmp_path / "a" / LOG).write_bytes(b"".join([*theirs, *ours[1:]]))
    assert verify(tmp_path / "a").problem == Finding(LOG, 2, "changed")


def test_the_last_line_written_anew_is_found_by_the_head(tmp_path: Path) -> None:
    write(tmp_path / "a")
    with writing(tmp_path / "b") as log:
        log.record(ANONYMOUS, Action.INFER, MODEL, YES)
    (tmp_path / "a" / LOG).write_bytes(b"".join(lines(tmp_path / "b")))
    assert verify(tmp_path / "a").problem == Finding(LOG, 1, "changed")


@given(st.binary(max_size=300).map(lambda text: text.replace(b"x", b"\n" * 3)), st.integers(1, 9))
def test_lines_are_read_backwards_as_they_are_forwards(text: bytes, repeat: int) -> None:
    file = io.BytesIO(text * repeat * 100)
    assert list(lines_backwards(file))[::-1] == io.BytesIO(file.getvalue()).readlines()


# Several processes, and the end of one.

APPEND = """
import sys
from pathlib import Path
from hyprstream.core.principal import Action, Decision, Principal, Resource
from hyprstream.policy import audit
from hyprstream.policy.audit import JsonAuditLog

audit.MAX_BATCH = 8
log = JsonAuditLog(Path(sys.argv[1]), max_bytes=20_000, keep=1000)
n = int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
while n:
    log.record(Principal(sys.argv[3]), Action.INFER, Resource("model", "m:main"), Decision(True, "r"))
    n -= 1
    if n % 7 == 0:
        print(n, flush=True)
log.close()
"""


def appender(directory: Path, n: int, subject: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", APPEND, str(directory), str(n), subject],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_append_to_one_chain(tmp_path: Path) -> None:
    processes = [appender(tmp_path, 600, f"local:{name}") for name in "ab"]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=SOON)
        assert process.returncode == 0
    report = verify(tmp_path)
    assert (report.n_entries, report.problem, report.n_recovered) == (1200, None, 0)
    assert len(report.files) > 10
    assert sum(1 for _ in grep(tmp_path, subject="local:a")) == 600


def test_a_writer_that_is_killed_leaves_a_log_that_can_be_continued(tmp_path: Path) -> None:
    for _ in range(3):
        process = appender(tmp_path, -1, "local:a")
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        eventually(lambda: (tmp_path / HEAD).exists() and verify(tmp_path).n_entries > 100)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        write(tmp_path)
        assert verify(tmp_path).problem is None
    assert tail(tmp_path, 1)[0].subject == "token:alice"


@pytest.mark.parametrize("n_cut", [2, 30, 200])
def test_a_torn_line_is_closed_by_an_entry_that_tells_of_it(tmp_path: Path, n_cut: int) -> None:
    write(tmp_path, 2)
    head = (tmp_path / HEAD).read_bytes()
    write(tmp_path)
    # The power went before the third line and the head that counts it were on the disk.
    (tmp_path / HEAD).write_bytes(head)
    torn = lines(tmp_path)[2][:-n_cut]
    os.truncate(tmp_path / LOG, (tmp_path / LOG).stat().st_size - n_cut)
    assert verify(tmp_path).problem == Finding(LOG, 3, "truncated")
    write(tmp_path)
    report = verify(tmp_path)
    assert (report.problem, report.n_recovered, report.n_lost) == (None, 1, 0)
    assert report.is_whole
    assert [entry.event for entry in tail(tmp_path, 2)] == [Event.RECOVERED, Event.DECISION]
    assert tail(tmp_path, 2)[0].n_torn == len(torn)
    assert lines(tmp_path)[2] == torn + b"\n", "what was left is kept"


def test_a_torn_line_that_is_edited_later_is_found(tmp_path: Path) -> None:
    write(tmp_path, 2)
    os.truncate(tmp_path / LOG, (tmp_path / LOG).stat().st_size - 9)
    write(tmp_path)
    assert verify(tmp_path).problem is None
    first, torn, *rest = lines(tmp_path)
    changed = torn.replace(b"alice", b"mallo")
    (tmp_path / LOG).write_bytes(b"".join([first, changed, *rest]))
    assert verify(tmp_path).problem == Finding(LOG, 2, "changed")
    (tmp_path / LOG).write_bytes(b"".join([first, *rest]))
    assert verify(tmp_path).problem == Finding(LOG, 2, "removed")


def test_a_last_line_that_only_lacks_its_newline_is_an_entry(tmp_path: Path) -> None:
    write(tmp_path, 2)
    os.truncate(tmp_path / LOG, (tmp_path / LOG).stat().st_size - 1)
    write(tmp_path)
    report = verify(tmp_path)
    assert (report.n_entries, report.n_recovered, report.problem) == (3, 0, None)


def test_entries_that_are_gone_at_the_end_are_told_of_and_their_numbers_not_used_again(
    tmp_path: Path,
) -> None:
    write(tmp_path, 5)
    (tmp_path / LOG).write_bytes(b"".join(lines(tmp_path)[:3]))
    assert verify(tmp_path).problem == Finding(LOG, 3, "truncated")
    write(tmp_path)
    report = verify(tmp_path)
    assert (report.problem, report.n_recovered, report.n_lost) == (None, 1, 2)
    assert not report.is_whole
    assert [entry.seq for entry in tail(tmp_path, 9)] == [1, 2, 3, 6, 7]


def test_a_log_that_is_gone_but_for_its_head_tells_of_it(tmp_path: Path) -> None:
    write(tmp_path, 4)
    (tmp_path / LOG).unlink()
    write(tmp_path)
    report = verify(tmp_path)
    assert (report.n_entries, report.n_recovered, report.n_lost) == (2, 1, 4)
    assert tail(tmp_path, 1)[0].seq == 6


def test_a_head_that_is_gone_is_made_again_and_told_of(tmp_path: Path) -> None:
    write(tmp_path, 3, max_bytes=800)
    (tmp_path / HEAD).write_bytes(b"\0" * 160)
    write(tmp_path)
    report = verify(tmp_path)
    assert (report.n_entries, report.n_recovered, report.problem) == (5, 1, None)
    assert (report.n_headless, report.is_whole) == (1, False)


# When it cannot be written.


@pytest.mark.parametrize(("seconds", "is_early"), [(0.0, True), (1e6, False)])
def test_what_is_written_reaches_the_disk_after_a_while_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, is_early: bool
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(audit, "SYNC_SECONDS", seconds)
    monkeypatch.setattr(Chain, "sync", lambda _: synced.append(verify(tmp_path).n_entries))
    with writing(tmp_path) as log:
        for n in (1, 2):
            log.record(ALICE, Action.INFER, MODEL, YES)
            eventually(lambda n=n: verify(tmp_path).n_entries == n and len(synced) == n * is_early)
    assert synced == ([1, 2] if is_early else [2])


def test_a_queue_that_is_full_counts_what_it_drops_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_QUEUE", 4)
    write(tmp_path)
    with (tmp_path / HEAD).open() as head, writing(tmp_path) as log:
        fcntl.flock(head, fcntl.LOCK_EX)  # a disk that hangs
        for _ in range(50):
            log.record(ALICE, Action.INFER, MODEL, YES)
        assert log.n_dropped >= 50 - 2 * 4 - 1
        fcntl.flock(head, fcntl.LOCK_UN)
    report = verify(tmp_path)
    n_written = sum(1 for _ in grep(tmp_path))
    assert report.problem is None
    assert (n_written - 1 + log.n_dropped, report.n_dropped) == (50, log.n_dropped)


def test_a_directory_that_cannot_be_written_is_a_problem_and_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "audit"
    directory.write_text("in the way")
    with writing(directory) as log:
        assert log.problem is None
        for n in (1, 2, 3):
            log.record(ALICE, Action.INFER, MODEL, YES)
            eventually(lambda n=n: log.n_dropped == n)
        assert log.problem is not None and str(directory) in log.problem
        errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(errors) == 1, "it is logged once"
        assert not errors[0].exc_info, "a disk's refusal is no bug of ours"
        directory.unlink()
        log.record(ALICE, Action.INFER, MODEL, YES)
        eventually(lambda: log.problem is None)
    assert [entry.event for entry in tail(directory, 5)] == [Event.DECISION, Event.DROPPED]
    assert verify(directory).n_dropped == 3


FULL_DISK = """
import resource, sys, time
from pathlib import Path
from hyprstream.core.principal import Action, Decision, Principal, Resource
from hyprstream.policy.audit import JsonAuditLog, verify

directory = Path(sys.argv[1])
log = JsonAuditLog(directory)

def record():
    log.record(Principal("local:a"), Action.INFER, Resource("model", "m:main"), Decision(True, "r"))

def wait_until(is_true):
    while not is_true():
        time.sleep(0.001)

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
while log.problem is None:
    record()
    time.sleep(0.001)
report = verify(directory)
assert report.problem is None and 0 < report.n_entries < 5, report
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
record()
wait_until(lambda: log.problem is None)
log.close()
report = verify(directory)
assert report.problem is None and report.n_recovered == 0, report
assert report.n_dropped == log.n_dropped > 0, report
"""


def test_a_full_disk_leaves_no_torn_line(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=SOON,
    )
    assert run.returncode == 0, run.stderr


# Reading.


def test_grep_finds_by_subject_action_resource_outcome_and_time(tmp_path: Path) -> None:
    ticks = iter(range(1_000_000_000, 2_000_000_000))
    with writing(tmp_path, clock=lambda: next(ticks)) as log:
        for principal, action, resource, decision in (
            (ALICE, Action.INFER, MODEL, YES),
            (ALICE, Action.WRITE, MODEL, NO),
            (Principal("token:alicia"), Action.INFER, Resource("model", "qwen3:main"), YES),
            (ANONYMOUS, Action.MANAGE, POLICY, NO),
        ):
            log.record(principal, action, resource, decision)

    def found(**wanted: object) -> list[int]:
        return [entry.seq for entry in grep(tmp_path, **wanted)]  # type: ignore[arg-type]

    assert found() == [1, 2, 3, 4]
    assert found(subject="token:alice") == [1, 2]
    assert found(subject="token:*", action=Action.INFER) == [1, 3]
    assert found(resource="model:smollm2") == [1, 2]
    assert found(denied_only=True) == [2, 4]
    times = [datetime.fromisoformat(entry.time) for entry in tail(tmp_path, 4)]
    assert found(since=times[1]) == [2, 3, 4]


def test_tail_reads_across_files(tmp_path: Path) -> None:
    write(tmp_path, 4, max_bytes=1)
    assert [entry.seq for entry in tail(tmp_path, 3)] == [2, 3, 4]
    assert [entry.seq for entry in tail(tmp_path, 99)] == [1, 2, 3, 4]
    assert tail(tmp_path, 0) == []
