"""Large files, each kept once under its digest. Knows bytes, links and the disk; knows no model, branch or remote.

<models>/.blobs/sha256/ab/<sha256>        the bytes, 0444
<models>/.blobs/references/<sha256>.json  a file that stays where its owner keeps it
<models>/.blobs/broken/<sha256>           bytes that have another digest than their name, kept to be looked at
<models>/.incoming/<sha256>.part          what an unfinished transfer has so far
<models>/.incoming/<sha256>.lock          held by whoever is at it
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hyprstream.core.errors import Conflict, Corrupt, Invalid, NotFound
from hyprstream.core.files import durable_replace, sync_directory, write_durably
from hyprstream.core.versions import Pointer
from hyprstream.registry.extents import reflink, share_extents
from hyprstream.registry.sources.partial import CHUNK_BYTES, PartialFile, require_space, sha256_of

_SHA256 = re.compile(r"[0-9a-f]{64}")
_INCOMING_FILE = re.compile(
    r"(?P<sha256>[0-9a-f]{64})\.(part|etag)|(?P<pid>\d{1,9})-[0-9a-f]{16}\.(copy|link)"
)
_READ_ONLY = 0o444
_MAX_RECORD_BYTES = 1 << 16


class LinkKind(StrEnum):
    """How the bytes of a blob came to another place."""

    REFLINK = "reflink"
    """A file of its own that shares its blocks with the blob until either is written to."""
    HARDLINK = "hardlink"
    """Another name of the blob, read-only like it."""
    SYMLINK = "symlink"
    """A signpost to a file that is kept in place."""
    COPY = "copy"


class _Reference(BaseModel):
    """A file in place, as it was when it was hashed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """Absolute."""
    size: int
    mtime_ns: int
    sha256: Annotated[str, Field(pattern=_SHA256)]

    @property
    def is_intact(self) -> bool:
        """Whether the file looks as it did then.

        Raises:
            OSError: it cannot be reached.
        """
        found = Path(self.path).stat()
        return (found.st_size, found.st_mtime_ns) == (self.size, self.mtime_ns)


class BlobStore:
    """Files by SHA-256. Any number of processes and threads may read and add at once; none ever sees half a blob."""

    def __init__(self, directory: Path) -> None:
        """Args: directory: `<models>/.blobs`; unfinished transfers go to `.incoming` beside it."""
        self.directory = directory.absolute()
        self.incoming = self.directory.with_name(".incoming")

    def path(self, sha256: str) -> Path:
        """Where the bytes are; of a reference, the file referred to.

        Raises:
            NotFound: they are not here, or the file referred to is gone.
            Corrupt: the file referred to has another size or time than when it was hashed.
        """
        stored = self._stored(sha256)
        if stored.is_file():
            return stored
        reference = self._reference(sha256)
        if reference is None:
            raise NotFound(
                f"the file with the sha256 {sha256} is not here",
                kind="file",
                hint="fetch it again with `hyprstream pull`",
            )
        try:
            is_intact = reference.is_intact
        except OSError as error:
            raise NotFound(
                f"{reference.path}, which a model refers to in place, cannot be reached: {error.strerror}",
                kind="file",
                hint="put it back, or pull the model again",
            ) from error
        if not is_intact:
            raise Corrupt(
                f"{reference.path}, which a model refers to in place, has changed since",
                hint="restore it, or pull it again to make a new version of the model",
            )
        return Path(reference.path)

    def has(self, sha256: str) -> bool:
        """Whether the bytes can be used."""
        try:
            self.path(sha256)
        except (NotFound, Corrupt):
            return False
        return True

    def size(self, sha256: str) -> int | None:
        """Bytes; None where the blob cannot be used."""
        try:
            return self.path(sha256).stat().st_size
        except (NotFound, Corrupt, FileNotFoundError):
            return None

    def is_reference(self, sha256: str) -> bool:
        """Whether the bytes are only referred to, and not stored."""
        return not self._stored(sha256).is_file() and self._record(sha256).is_file()

    def __iter__(self) -> Iterator[str]:
        """Every digest that is stored or referred to, usable or not, in order."""
        stored = {path.name for path in self.directory.glob("sha256/??/*")}
        referred = {path.stem for path in self.directory.glob("references/*.json")}
        return iter(sorted(name for name in stored | referred if _SHA256.fullmatch(name)))

    def add(self, path: Path, *, sha256: str | None = None, move: bool = False) -> Pointer:
        """Store a file.

        Args:
            sha256: its digest, if it is known; only a file that moves is not hashed then.
            move: give the file itself to the store. It must not be written to any more, by whoever has it open.

        Raises:
            Conflict: the file changes while it is stored.
            TooLarge: the disk has no room for a copy.
        """
        digest = sha256 or sha256_of(path)
        size = path.stat().st_size
        stored = self._stored(digest)
        may_adopt = move and not path.is_symlink()
        if not stored.is_file() and not (may_adopt and self._adopt(path, stored)):
            self._adopt(self._copied(path, digest), stored)
        if move:
            path.unlink(missing_ok=True)
        return Pointer(digest, size)

    def refer(self, path: Path, *, sha256: str | None = None) -> Pointer:
        """Remember a file where it is; its bytes stay its owner's business.

        Raises:
            Invalid: it is not a regular file.
            Conflict: it changes while it is hashed.
        """
        path = path.absolute()
        before = path.stat()
        if not stat.S_ISREG(before.st_mode):
            raise Invalid(f"{path} is not a regular file")
        digest = sha256 or sha256_of(path)
        reference = _Reference(
            path=str(path), size=before.st_size, mtime_ns=before.st_mtime_ns, sha256=digest
        )
        if not reference.is_intact:
            raise _changed(path)
        record = self._record(digest)
        record.parent.mkdir(parents=True, exist_ok=True)
        write_durably(record, reference.model_dump_json(indent=2).encode())
        return Pointer(digest, before.st_size)

    def link(self, pointer: Pointer, target: Path) -> LinkKind:
        """Give `target` the content of a blob, replacing what is there, at the least cost the disk allows.

        Raises:
            NotFound, Corrupt: as `path`.
            TooLarge: the disk has no room for a copy.
        """
        source = self.path(pointer.sha256)
        self.incoming.mkdir(parents=True, exist_ok=True)
        # Not beside the target, where a crash would leave a file that nobody put there; unless that is another disk.
        is_near = self.incoming.stat().st_dev == target.parent.stat().st_dev
        temporary = _unused(self.incoming if is_near else target.parent, "link")
        try:
            kind = self._link(source, temporary, is_ours=source == self._stored(pointer.sha256))
            temporary.replace(target)
        finally:
            # Also after success: between two names of one file, rename(2) does nothing.
            temporary.unlink(missing_ok=True)
        return kind

    def shares(self, sha256: str, path: Path) -> bool:
        """Whether `path` is the blob itself, or shares every block with it: then it has its content and costs nothing."""
        try:
            blob = self.path(sha256)
            return blob.samefile(path) or share_extents(blob, path)
        except (NotFound, Corrupt, OSError):
            return False

    def verify(self, sha256: str) -> bool:
        """Read the bytes; whether they are those that the digest stands for, and can be read at all.

        Raises:
            NotFound: there are none.
        """
        try:
            return sha256_of(self.path(sha256)) == sha256
        except (Corrupt, OSError):
            return False

    def discard(self, sha256: str) -> None:
        """Set a broken blob aside. A file referred to is left alone and forgotten."""
        self._record(sha256).unlink(missing_ok=True)
        broken = self.directory / "broken" / sha256
        broken.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            durable_replace(self._stored(sha256), broken)

    def remove(self, sha256: str) -> None:
        """Delete a blob. A file referred to is left alone and forgotten."""
        for path in (self._record(sha256), self._stored(sha256)):
            if path.exists():
                path.unlink(missing_ok=True)
                sync_directory(path.parent)

    def leftovers(self) -> Iterator[Path]:
        """Files in `.incoming` that nobody needs: of transfers that are complete, and of copies that a crash has ended."""
        for path in sorted(self.incoming.glob("*")):
            found = _INCOMING_FILE.fullmatch(path.name)
            if found is None:
                continue
            if found["sha256"] is not None:
                is_needed = not self.has(found["sha256"]) or path.with_suffix(".lock").exists()
            else:
                is_needed = _is_running(int(found["pid"]))
            if not is_needed:
                yield path

    @contextmanager
    def partial(self, sha256: str) -> Generator[PartialFile]:
        """The unfinished transfer of a blob and the only right to continue it: whoever else wants that waits.

        What is published in the block is in the store when the block is left; anything else is kept, to be continued.
        After having waited, the blob may be there: ask `has`.
        """
        self._stored(sha256)  # refuses what is no digest
        self.incoming.mkdir(parents=True, exist_ok=True)
        with _locked(self.incoming / f"{sha256}.lock"):
            self._store_arrived(sha256)  # a crash may have come between publishing and storing
            try:
                with PartialFile(self.incoming, sha256) as part:
                    yield part
            finally:
                self._store_arrived(sha256)

    def _store_arrived(self, sha256: str) -> None:
        arrived = self.incoming / sha256
        if arrived.exists():
            self.add(arrived, sha256=sha256, move=True)
        if self._stored(sha256).is_file():
            for suffix in ("part", "etag"):
                (self.incoming / f"{sha256}.{suffix}").unlink(missing_ok=True)

    def _stored(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise Invalid(f"{sha256[:80]!r} is no sha256: it has 64 hexadecimal digits")
        return self.directory / f"sha256/{sha256[:2]}/{sha256}"

    def _record(self, sha256: str) -> Path:
        return self.directory / "references" / f"{self._stored(sha256).name}.json"

    def _reference(self, sha256: str) -> _Reference | None:
        record = self._record(sha256)
        try:
            with record.open("rb") as file:
                reference = _Reference.model_validate_json(file.read(_MAX_RECORD_BYTES))
        except FileNotFoundError:
            return None
        except ValidationError:
            reference = None
        if reference is None or reference.sha256 != sha256:
            raise Corrupt(f"{record} is damaged", hint="delete it and pull the model again")
        return reference

    def _adopt(self, path: Path, stored: Path) -> bool:
        """Rename a whole file to its place; False if it is on another disk."""
        with path.open("rb") as file:
            os.fchmod(file.fileno(), _READ_ONLY)
            os.fsync(file.fileno())
        stored.parent.mkdir(parents=True, exist_ok=True)
        try:
            durable_replace(path, stored)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return False
        return True

    def _copied(self, path: Path, sha256: str) -> Path:
        """A copy in `.incoming` that has the digest."""
        self.incoming.mkdir(parents=True, exist_ok=True)
        temporary = _unused(self.incoming, "copy")
        try:
            if not reflink(path, temporary):
                _copy(path, temporary)
            if sha256_of(temporary) != sha256:
                raise _changed(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _link(self, source: Path, target: Path, *, is_ours: bool) -> LinkKind:
        if reflink(source, target):
            _copy_times(source, target)
            return LinkKind.REFLINK
        if not is_ours:
            # A hard link would keep its owner from taking the file away, and cannot lead to another disk.
            target.symlink_to(source)
            return LinkKind.SYMLINK
        try:
            os.link(source, target)
            return LinkKind.HARDLINK
        except OSError:  # another disk, too many links, or a file system without any
            _copy(source, target)
            _copy_times(source, target)
            return LinkKind.COPY


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """Hold the lock of this name. Its file goes with it, so a lock counts only on the file that still has the name."""
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_still(path, file.fileno()):
                try:
                    yield
                finally:
                    path.unlink()
                return


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _copy(source: Path, target: Path) -> None:
    require_space(target.parent, source.stat().st_size)
    with source.open("rb") as original, target.open("xb") as copy:
        shutil.copyfileobj(original, copy, CHUNK_BYTES)
        copy.flush()
        os.fsync(copy.fileno())


def _copy_times(source: Path, target: Path) -> None:
    """So that whoever looks at sizes and times sees every later change, however soon it comes."""
    found = source.stat()
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _unused(directory: Path, suffix: str) -> Path:
    return directory / f"{os.getpid()}-{secrets.token_hex(8)}.{suffix}"


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _changed(path: Path) -> Conflict:
    return Conflict(f"{path} changes while it is read", hint="wait until it is complete")
