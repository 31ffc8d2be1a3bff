"""The audit log on disk: lines that each carry the hash of the one before. Knows bytes, locks and files; decides nothing.

```
audit-000000000001.jsonl   {"seq":1, …, "prev":"000…", "hash":"5f1…"}
                           {"seq":2, …, "prev":"5f1…", "hash":"c07…"}
audit.jsonl                {"seq":3, …, "prev":"c07…", "hash":"9ae…"}     being written
audit.head                 {"seq":3, "hash":"9ae…", "first":1}            where the chain ends and begins
```

`hash` is the SHA-256 of its line's bytes without the hash itself. Whoever may write here can write another chain that is
sound; to notice that too, keep a copy of `audit.head` elsewhere.
"""

import fcntl
import io
import os
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import orjson
from pydantic import TypeAdapter, ValidationError

from hyprstream.core.files import make_private, sync_directory

LOG = "audit.jsonl"
HEAD = "audit.head"
GENESIS = "0" * 64
"""What the first entry of all links to."""

_HASH = re.compile(rb',"hash":"([0-9a-f]{64})"\}\n')
_N_HASH = len(b',"hash":""}\n') + 64
_N_HEAD = 160
"""Bytes of the head file, always: it is overwritten in place, and one sector is written whole or not at all."""

_sync = os.fdatasync if hasattr(os, "fdatasync") else os.fsync

Fields = Mapping[str, str | int | bool | None]


class Event(StrEnum):
    """What an entry says."""

    DECISION = "decision"
    DROPPED = "dropped"
    """`n_lost` decisions were never written: the queue was full, or the disk."""
    RECOVERED = "recovered"
    """A crash came between: `n_lost` entries are gone, and the line before this one ends after `n_torn` bytes."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the log. What does not apply to its event is None or 0."""

    seq: int
    """Counts from 1 through all files."""
    time: str
    """UTC, ISO 8601 with microseconds: in the order of the text."""
    event: Event
    prev: str
    hash: str
    subject: str | None = None
    credential: str | None = None
    """Id of the token, never the token."""
    door: str | None = None
    action: str | None = None
    resource: str | None = None
    version: str | None = None
    """The commit that the resource's name meant."""
    allowed: bool | None = None
    rule: str | None = None
    """Why: the rule that decided, as it stands in the policy."""
    line: int | None = None
    """That rule's line."""
    request_id: str | None = None
    n_lost: int = 0
    n_torn: int = 0
    torn: str | None = None
    """SHA-256 of the torn line."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain ends, and where it begins since old files were deleted."""

    seq: int
    hash: str
    first: int


_ENTRY = TypeAdapter(AuditEntry)
_HEAD = TypeAdapter(Head)


def encode(fields: Fields, *, prev: str) -> tuple[bytes, str]:
    """A line with its newline, and its hash."""
    body = orjson.dumps({**fields, "prev": prev})
    digest = sha256(body).hexdigest()
    return b'%b,"hash":"%b"}\n' % (body[:-1], digest.encode()), digest


def decode(line: bytes) -> AuditEntry | None:
    """The entry a line holds; None unless every byte is as it was written."""
    match = _HASH.fullmatch(line[-_N_HASH:])
    body = line[:-_N_HASH] + b"}"
    if match is None or sha256(body).hexdigest().encode() != match[1]:
        return None
    try:
        return _ENTRY.validate_json(line)
    except ValidationError:
        return None


def files(directory: Path) -> list[Path]:
    """The files that there are, oldest first."""
    return [
        path
        for path in (*sorted(directory.glob("audit-*.jsonl")), directory / LOG)
        if path.is_file()
    ]


def lines_backwards(file: BinaryIO) -> Iterator[bytes]:
    """The lines from last to first, each with its newline; the first of them lacks it if the file ends within a line."""
    position, n, rest = file.seek(0, os.SEEK_END), 1 << 14, b""
    while position:
        n = min(2 * n, position)
        position = file.seek(position - n)
        rest, *lines = io.BytesIO(file.read(n) + rest).readlines()
        file.seek(position)
        yield from reversed(lines)
    if rest:
        yield rest


def read_head(head_file: int) -> Head | None:
    """What an open head file says; None if it is empty or not sound."""
    try:
        return _HEAD.validate_json(os.pread(head_file, _N_HEAD, 0))
    except ValidationError:
        return None


@contextmanager
def opened(path: Path, flags: int) -> Generator[int]:
    """A descriptor of a file that only its owner may read."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _End:
    """What was found at the end of the files."""

    seq: int
    hash: str
    """Of the last sound entry."""
    torn: bytes = b""
    """A beginning of a line after it."""
    is_in_line: bool = False
    """Whether the last byte is no newline."""

    def n_lost(self, head: Head | None) -> int:
        """Entries that were written and are not here."""
        if head is None or self.seq > head.seq or (self.seq, self.hash) == (head.seq, head.hash):
            return 0
        return max(head.seq - self.seq, 1)

    def is_whole(self, head: Head | None) -> bool:
        """Whether everything that was written is here; a log without a head has no entry yet."""
        return not self.torn and not self.n_lost(head) and (head is not None or self.seq == 0)


class Chain:
    """Appends to the log in a directory, beside other processes that do the same.

    A file that has `max_bytes` is renamed after its first entry; `keep` of those are kept.
    """

    def __init__(self, directory: Path, *, max_bytes: int, keep: int) -> None:
        self._directory = directory
        self._log = directory / LOG
        self._max_bytes = max_bytes
        self._keep = keep
        self._written: tuple[Head, tuple[int, int]] | None = None
        """The head and the file as this object left them."""

    def append(self, time: str, records: Sequence[Fields]) -> None:
        """Write an entry for each record, in one piece. What a crash left behind is closed first.

        Raises:
            OSError: none of them is written.
        """
        make_private(self._directory)
        with opened(self._directory / HEAD, os.O_RDWR | os.O_CREAT) as head_file:
            fcntl.flock(head_file, fcntl.LOCK_EX)
            head = read_head(head_file)
            end = self._end(head)
            first = head.first if head else _first_entry(files(self._directory), default=1)
            is_tidy = end.is_whole(head) and not end.is_in_line
            if is_tidy and self._size() >= self._max_bytes:
                first = self._rotate(head_file, end, first)
            content, seq, digest = _continued(head, end, time, records)
            self._write(content)
            head = Head(seq, digest, first)
            _write_head(head_file, head)
            self._written = head, self._stamp()

    def sync(self) -> None:
        """Bring what was written to the disk.

        Raises:
            OSError: the disk refuses.
        """
        for path in (self._log, self._directory / HEAD):
            with opened(path, os.O_RDWR) as descriptor:
                _sync(descriptor)

    def _end(self, head: Head | None) -> _End:
        if head is not None and self._written == (head, self._stamp()):
            return _End(head.seq, head.hash)
        return _find_end(self._directory)

    def _stamp(self) -> tuple[int, int]:
        try:
            status = self._log.stat()
        except FileNotFoundError:
            return 0, 0
        return status.st_ino, status.st_size

    def _size(self) -> int:
        return self._stamp()[1]

    def _write(self, content: bytes) -> None:
        with opened(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as log:
            size = os.fstat(log).st_size
            rest = memoryview(content)
            try:
                while rest:
                    rest = rest[os.write(log, rest) :]
            except OSError:
                os.ftruncate(log, size)
                raise

    def _rotate(self, head_file: int, end: _End, first: int) -> int:
        """Begin a new file and delete the oldest; returns the first entry that is kept."""
        first_here = _first_entry([self._log], default=end.seq + 1)
        target = self._directory / f"audit-{first_here:012}.jsonl"
        if target.exists():
            return first
        self.sync()
        self._log.rename(target)
        rotated = files(self._directory)
        n_old = max(0, len(rotated) - self._keep)
        if n_old:
            first = _first_entry(rotated[n_old:], default=end.seq + 1)
            # Written first: files before the one that the head calls the first are no surprise, one that lacks is.
            _write_head(head_file, Head(end.seq, end.hash, first))
            for path in rotated[:n_old]:
                path.unlink()
        sync_directory(self._directory)
        return first


def _continued(
    head: Head | None, end: _End, time: str, records: Sequence[Fields]
) -> tuple[bytes, int, str]:
    """What to write after `end`, and the number and hash of its last entry."""
    seq, digest = max(end.seq, head.seq if head else 0), end.hash
    repairs = [] if end.is_whole(head) else [_recovered(head, end)]
    lines = [b"\n"] if end.is_in_line else []
    for record in (*repairs, *records):
        seq += 1
        line, digest = encode({"seq": seq, "time": time, **record}, prev=digest)
        lines.append(line)
    return b"".join(lines), seq, digest


def _recovered(head: Head | None, end: _End) -> Fields:
    return {
        "event": Event.RECOVERED,
        "n_lost": end.n_lost(head),
        "n_torn": len(end.torn),
        "torn": sha256(end.torn).hexdigest() if end.torn else None,
    }


def _find_end(directory: Path) -> _End:
    torn, is_in_line = b"", False
    for path in reversed(files(directory)):
        with path.open("rb") as file:
            for line in lines_backwards(file):
                is_cut = path.name == LOG and not line.endswith(b"\n")
                is_in_line |= is_cut
                if entry := decode(line + b"\n" if is_cut else line):
                    return _End(entry.seq, entry.hash, torn, is_in_line)
                if is_cut:
                    torn = line
    return _End(0, GENESIS, torn, is_in_line)


def _first_entry(paths: Sequence[Path], *, default: int) -> int:
    for path in paths:
        if path.is_file():
            with path.open("rb") as file:
                for line in file:
                    if entry := decode(line):
                        return entry.seq
    return default


def _write_head(head_file: int, head: Head) -> None:
    os.pwrite(head_file, orjson.dumps(head).ljust(_N_HEAD - 1) + b"\n", 0)
