"""A file that is not whole yet. Knows bytes, digests and the disk; knows nothing of where the bytes come from."""

import hashlib
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Self

from hyprstream.core.errors import SourceError, TooLarge
from hyprstream.core.files import durable_replace

CHUNK_BYTES = 1 << 20
"""Bytes read at once when a file is hashed or copied."""


class PartialFile:
    """`<sha256>.part` while it grows, opened with what an earlier attempt left. Hashes what it holds as it goes.

    Leaving the block keeps the bytes for the next attempt; only `publish` takes the `.part` away, and only from a file
    with the digest it is named after. So what was begun from one address may be continued from another.
    """

    def __init__(self, directory: Path, sha256: str) -> None:
        self.directory = directory
        self.size = 0
        self._sha256 = sha256
        self._target = directory / sha256
        self._path = directory / f"{sha256}.part"
        self._etag_path = directory / f"{sha256}.etag"
        self._digest = hashlib.sha256()

    def __enter__(self) -> Self:
        self._file = self._path.open("ab+")
        self._file.seek(0)
        while chunk := self._file.read(CHUNK_BYTES):
            self._digest.update(chunk)
            self.size += len(chunk)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def etag(self) -> str | None:
        """The entity tag (RFC 9110 §8.8.3) of the body these bytes are the start of, if it had a strong one."""
        return self._etag_path.read_text() if self.size and self._etag_path.exists() else None

    def restart(self, etag: str | None = None) -> None:
        """Forget every byte; what comes next is the start of the body `etag` names."""
        self._file.truncate(0)
        self._digest = hashlib.sha256()
        self.size = 0
        self._etag_path.unlink(missing_ok=True)
        if etag is not None and etag.isascii() and not etag.startswith("W/"):
            self._etag_path.write_text(etag)

    def write(self, chunk: bytes) -> None:
        """Append."""
        self._file.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)

    def publish(self) -> None:
        """Give the file its final name, durably: file synced, renamed, directory synced.

        Raises:
            SourceError: the digest is another one. The bytes are discarded: no resumption could repair them.
        """
        found = self._digest.hexdigest()
        if found != self._sha256:
            self.restart()
            self._path.unlink()
            raise SourceError(
                f"the file received has the sha256 {found}, expected {self._sha256}",
                hint="nothing was stored; the file at the source is another one than was asked for",
            )
        self._file.flush()
        os.fsync(self._file.fileno())
        durable_replace(self._path, self._target)
        self._etag_path.unlink(missing_ok=True)


Progress = Generator[tuple[int, int], None, None]
"""Yields how many bytes of one file are there, and how many there will be."""


def copy_file(path: Path, directory: Path, sha256: str) -> Progress:
    """Copy `path` to `directory/sha256`, unless that is there already.

    Raises:
        SourceError: the file has another digest.
        TooLarge: the disk has no room.
    """
    if (directory / sha256).exists():
        return
    size = path.stat().st_size
    with path.open("rb") as file, PartialFile(directory, sha256) as part:
        part.restart()
        require_space(directory, size)
        while chunk := file.read(CHUNK_BYTES):
            part.write(chunk)
            yield part.size, size
        part.publish()


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(directory: Path, n_bytes: int) -> None:
    """Return if the disk that `directory` is on has room for `n_bytes` more.

    Raises:
        TooLarge: it has not; the message has both numbers.
    """
    free = shutil.disk_usage(directory).free
    if n_bytes > free:
        raise TooLarge(
            f"{n_bytes / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free in {directory}",
            hint="free some space, or keep the models on another disk",
        )
