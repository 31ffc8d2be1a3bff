"""Writes decisions down and reads them back. Knows principals, a queue and a thread; knows no prompts, keys or headers."""

import atexit
import contextlib
import fcntl
import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Literal

from structlog.contextvars import get_contextvars

from hyprstream.core.principal import Action, Decision, Principal, Resource, covers
from hyprstream.policy.audit_chain import (
    GENESIS,
    HEAD,
    LOG,
    AuditEntry,
    Chain,
    Event,
    Fields,
    Head,
    decode,
    files,
    lines_backwards,
    opened,
    read_head,
)

__all__ = ["AuditEntry", "Event", "JsonAuditLog", "VerifyReport", "grep", "tail", "verify"]

log = logging.getLogger(__name__)

MAX_QUEUE = 8192
"""Decisions that may wait for the disk; one is some 300 bytes of memory."""
MAX_BATCH = 1024
MAX_TEXT = 1024
"""Characters of any one field; a line stays shorter than a block of the file."""
SYNC_SECONDS = 1.0
"""What a power cut may take."""


@dataclass(frozen=True, slots=True)
class _Record:
    time: float
    principal: Principal
    action: Action
    resource: Resource
    decision: Decision
    request_id: object


class JsonAuditLog:
    """An AuditLog of JSON lines in `directory`, each linked to the one before by its hash; several processes may share it.

    `record` hands the decision to a thread. Where that cannot keep up, or cannot write, decisions are counted instead and the
    next entry that can be written says how many. `version_of` gives the commit a resource means; the thread asks it.
    `clock` gives seconds since the epoch.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int = 16 << 20,
        keep: int = 16,
        clock: Callable[[], float] = time.time,
        version_of: Callable[[Resource], str | None] | None = None,
    ) -> None:
        self._chain = Chain(directory, max_bytes=max_bytes, keep=keep)
        self._directory = directory
        self._clock = clock
        self._version_of = version_of
        self._queue: queue.SimpleQueue[_Record | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._n_dropped = 0
        self._n_reported = 0
        self._problem: str | None = None
        self._sync_due: float | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def n_dropped(self) -> int:
        """Decisions that are not in the log."""
        return self._n_dropped

    @property
    def problem(self) -> str | None:
        """Why nothing can be written at present; None while all is well."""
        return self._problem

    def record(
        self, principal: Principal, action: Action, resource: Resource, decision: Decision
    ) -> None:
        """Write one decision down soon; never waits."""
        if self._is_closed or self._queue.qsize() >= MAX_QUEUE:
            self._drop(1)
            return
        request_id = get_contextvars().get("request_id")
        self._queue.put(_Record(self._clock(), principal, action, resource, decision, request_id))

    def close(self) -> None:
        """Write what is queued, bring it to the disk and end the thread."""
        if not self._is_closed:
            self._is_closed = True
            self._queue.put(None)
            self._thread.join()
            atexit.unregister(self.close)

    def _drop(self, n: int) -> None:
        with self._lock:
            self._n_dropped += n

    # Everything below runs in the thread.

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch, is_open = self._next_batch()
            n_dropped = self._n_dropped
            if batch or n_dropped > self._n_reported:
                self._append(batch, n_dropped)
            if self._is_sync_due or not is_open:
                self._sync()

    def _next_batch(self) -> tuple[list[_Record], bool]:
        """What waits, and whether more may come. Returns without any when something must go to the disk."""
        batch: list[_Record] = []
        with contextlib.suppress(queue.Empty):
            record = self._queue.get(timeout=self._patience)
            while record is not None:
                batch.append(record)
                if len(batch) == MAX_BATCH:
                    return batch, True
                record = self._queue.get_nowait()
            return batch, False
        return batch, True

    @property
    def _patience(self) -> float | None:
        if self._sync_due is None:
            return None
        return max(0.0, self._sync_due - time.monotonic())

    @property
    def _is_sync_due(self) -> bool:
        return self._sync_due is not None and time.monotonic() >= self._sync_due

    def _append(self, batch: Sequence[_Record], n_dropped: int) -> None:
        n_lost = n_dropped - self._n_reported
        records = [self._fields(record) for record in batch]
        if n_lost:
            now = self._clock()
            records.append({"time": _utc(now), "event": Event.DROPPED, "n_lost": n_lost})
        with self._reporting(n_lost=len(batch)):
            self._chain.append(_utc(self._clock()), records)
            self._n_reported = n_dropped
            self._sync_due = self._sync_due or time.monotonic() + SYNC_SECONDS

    def _sync(self) -> None:
        if self._sync_due is not None:
            self._sync_due = None
            with self._reporting(n_lost=0):
                self._chain.sync()

    @contextlib.contextmanager
    def _reporting(self, *, n_lost: int) -> Generator[None]:
        try:
            yield
        except Exception as error:
            # Whatever it is: who serves requests must not fail because nobody writes them down.
            self._drop(n_lost)
            if self._problem is None:
                # A disk that is full or may not be written is the operator's; anything else is ours, and needs its trace.
                log.error(
                    "decisions cannot be written to the audit log in %s: %s",
                    self._directory,
                    error,
                    exc_info=not isinstance(error, OSError),
                )
            self._problem = f"the audit log in {self._directory} cannot be written: {error}"
        else:
            if self._problem is not None:
                log.warning("decisions are written to the audit log in %s again", self._directory)
            self._problem = None

    def _fields(self, record: _Record) -> Fields:
        principal, decision = record.principal, record.decision
        return {
            "time": _utc(record.time),
            "event": Event.DECISION,
            "subject": _text(principal.subject),
            "credential": _text(principal.credential),
            "door": principal.door,
            "action": record.action,
            "resource": _text(str(record.resource)),
            "version": self._version(record.resource),
            "allowed": decision.is_allowed,
            "rule": _text(decision.reason),
            "line": decision.line,
            "request_id": None if record.request_id is None else _text(str(record.request_id)),
        }

    def _version(self, resource: Resource) -> str | None:
        if self._version_of is None:
            return None
        try:
            return self._version_of(resource)
        except Exception:
            log.warning("what %s means is not known to the audit log", resource, exc_info=True)
            return None


Problem = Literal["changed", "removed", "inserted", "truncated", "reordered"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The first place where the log is not as it was written."""

    file: str
    line: int
    """From 1; 0 is the whole file."""
    what: Problem


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Whether a log is as it was written. Losses that the log itself tells of are counted."""

    n_entries: int
    files: tuple[str, ...]
    problem: Finding | None
    n_dropped: int = 0
    """Decisions that were never written."""
    n_recovered: int = 0
    """Crashes that left a torn line or took entries."""
    n_lost: int = 0
    """Entries those took, or whoever cut them off."""
    n_headless: int = 0
    """Recoveries that found entries and no head: what they lack cannot be told."""
    head: Head | None = None
    """Where the chain ends. Whoever keeps it elsewhere can tell later that nothing was written anew."""

    @property
    def is_whole(self) -> bool:
        """Whether every entry that was ever written, and is not too old to be kept, is there as it was."""
        return self.problem is None and not self.n_lost and not self.n_headless


def verify(directory: Path) -> VerifyReport:
    """Read the whole log and follow its chain; other processes may go on writing.

    Raises:
        OSError: it cannot be read.
    """
    with ExitStack() as stack:
        head, logs = _snapshot(directory, stack)
        check = _Check(head)
        for name, file, size in logs:
            for n, line in enumerate(_lines(file, size), 1):
                check.see(name, n, line)
        check.end()
        return check.report(tuple(name for name, _, _ in logs))


def tail(directory: Path, n: int) -> list[AuditEntry]:
    """The last `n` entries, oldest first. Lines that are not sound are left to `verify`."""
    with ExitStack() as stack:
        _, logs = _snapshot(directory, stack)
        lines = itertools.chain.from_iterable(lines_backwards(file) for _, file, _ in logs[::-1])
        return [*itertools.islice(filter(None, map(decode, lines)), n)][::-1]


def grep(
    directory: Path,
    *,
    subject: str | None = None,
    action: Action | None = None,
    resource: str | None = None,
    denied_only: bool = False,
    since: datetime | None = None,
) -> Iterator[AuditEntry]:
    """The decisions that fit, oldest first. `subject` and `resource` are patterns as `covers` reads them."""
    start = "" if since is None else _utc(since.timestamp())

    def fits(entry: AuditEntry) -> bool:
        return (
            entry.event is Event.DECISION
            and (subject is None or covers(subject, entry.subject or ""))
            and (action is None or entry.action == action)
            and (resource is None or covers(resource, entry.resource or ""))
            and not (denied_only and entry.allowed)
            and entry.time >= start
        )

    with ExitStack() as stack:
        _, logs = _snapshot(directory, stack)
        for _, file, size in logs:
            yield from filter(fits, filter(None, map(decode, _lines(file, size))))


class _Check:
    """Follows a chain line by line up to the first thing that is wrong."""

    def __init__(self, head: Head | None) -> None:
        self._head = head
        self._last: AuditEntry | None = None
        self._unread: tuple[str, int, bytes] | None = None
        """A line that is no entry; what follows must be the recovery that tells of it."""
        self._place = LOG, 0
        self._problem: Finding | None = None
        self._missing = 0
        """The number that was expected where another came."""
        self._n_entries = self._n_dropped = self._n_recovered = self._n_lost = self._n_headless = 0

    def see(self, file: str, line: int, content: bytes) -> None:
        """Take the next line."""
        self._place = file, line
        entry = decode(content)
        if entry is not None:
            self._count(entry)
        if self._problem is None:
            self._problem = self._unsound(content, entry)
        elif self._problem.what == "removed" and entry is not None and entry.seq == self._missing:
            self._problem = replace(self._problem, what="reordered")

    def end(self) -> None:
        """There are no more lines."""
        if self._problem is not None:
            return
        last, head = self._last, self._head
        if self._unread is not None:
            file, line, content = self._unread
            self._problem = Finding(
                file, line, "changed" if content.endswith(b"\n") else "truncated"
            )
        elif head is None and last is not None:
            self._problem = Finding(HEAD, 0, "removed")
        elif head is not None and (last is None or last.seq < head.seq):
            self._problem = Finding(*self._place, "truncated")

    def report(self, names: tuple[str, ...]) -> VerifyReport:
        """What was seen."""
        return VerifyReport(
            self._n_entries,
            names,
            self._problem,
            self._n_dropped,
            self._n_recovered,
            self._n_lost,
            self._n_headless,
            self._head,
        )

    def _count(self, entry: AuditEntry) -> None:
        self._n_entries += 1
        if entry.event is Event.DROPPED:
            self._n_dropped += entry.n_lost
        elif entry.event is Event.RECOVERED:
            self._n_recovered += 1
            self._n_lost += entry.n_lost
            # A line that was torn, or entries that lack, are why there is a recovery, or else it is the head.
            self._n_headless += not entry.n_lost and not entry.n_torn

    def _unsound(self, content: bytes, entry: AuditEntry | None) -> Finding | None:
        if self._unread is not None:
            file, line, torn = self._unread
            if entry is None or not _tells_of(entry, torn):
                is_extra = entry is not None and not entry.n_torn and not self._misfit(entry)
                return Finding(file, line, "inserted" if is_extra else "changed")
            self._unread = None
        elif entry is not None and entry.n_torn:
            return Finding(*self._place, "removed")
        if entry is None:
            file, line = self._place
            self._unread = file, line, content
            return None
        what = self._misfit(entry)
        self._last = entry
        return Finding(*self._place, what) if what else None

    def _misfit(self, entry: AuditEntry) -> Problem | None:
        """How this entry fails to follow the last one."""
        last, head = self._last, self._head
        n_lost = entry.n_lost if entry.event is Event.RECOVERED else 0
        self._missing = last.seq + 1 if last else head.first if head else 1
        if entry.seq > self._missing + n_lost:
            return "removed"
        if last is not None and entry.seq < self._missing:
            return "inserted"
        # What the first line links to may have been deleted with its file, as the oldest are.
        expected = last.hash if last else GENESIS if entry.seq == 1 else entry.prev
        is_other = head is not None and entry.seq == head.seq and entry.hash != head.hash
        return "changed" if entry.prev != expected or is_other else None


def _tells_of(entry: AuditEntry, torn: bytes) -> bool:
    """Whether this is the recovery that closed a torn line."""
    line = torn.removesuffix(b"\n")
    return (
        entry.event is Event.RECOVERED
        and entry.n_torn == len(line)
        and entry.torn == sha256(line).hexdigest()
    )


Logs = list[tuple[str, BinaryIO, int]]
"""Name, content and size of each file, oldest first."""


def _snapshot(directory: Path, stack: ExitStack) -> tuple[Head | None, Logs]:
    """The log of one moment, open until `stack` closes: nobody writes or renames meanwhile."""
    head: Head | None = None
    with ExitStack() as lock:
        with contextlib.suppress(FileNotFoundError):
            head_file = lock.enter_context(opened(directory / HEAD, os.O_RDONLY))
            fcntl.flock(head_file, fcntl.LOCK_SH)
            head = read_head(head_file)
        logs: Logs = []
        for path in files(directory):
            file = stack.enter_context(path.open("rb"))
            logs.append((path.name, file, os.fstat(file.fileno()).st_size))
        return head, logs


def _lines(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The lines of the first `size` bytes."""
    while size > 0 and (line := file.readline(size)):
        size -= len(line)
        yield line


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def _text(text: str | None) -> str | None:
    # Whatever a name holds, a line stays short and is UTF-8.
    return None if text is None else text[:MAX_TEXT].encode(errors="backslashreplace").decode()
