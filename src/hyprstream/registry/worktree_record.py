"""What was last written into a worktree, so that a look at sizes and times says what changed. Knows no git and no blob."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hyprstream.core.errors import Corrupt
from hyprstream.core.files import write_durably
from hyprstream.core.versions import Pointer, TreeFile

MAX_RECORD_BYTES = 16 << 20

Oid = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Stat(NamedTuple):
    """What a file looks like without being read. It changes with every change of the content."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> "Stat":
        """From what the system says."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


class RecordedFile(BaseModel):
    """One file of the version a worktree shows."""

    model_config = ConfigDict(frozen=True)

    oid: Oid
    size: Annotated[int, Field(ge=0)]
    """Bytes of the content."""
    sha256: Sha256 | None = None
    """Of a large file."""
    stat: Stat | None = None
    """As it was written; None where it was not written, or what is there is not ours."""

    @classmethod
    def expected(cls, file: TreeFile) -> "RecordedFile":
        """A file that is still to be written."""
        sha256 = file.pointer.sha256 if file.pointer else None
        return cls(oid=file.oid, size=file.size, sha256=sha256)

    def tree_file(self, path: str) -> TreeFile:
        """The same as a tree has it."""
        pointer = Pointer(self.sha256, self.size) if self.sha256 else None
        return TreeFile(path, self.oid, self.size, pointer)


class Record(BaseModel):
    """The version a worktree shows."""

    model_config = ConfigDict(frozen=True)

    branch: str
    commit: Oid
    created: int
    """When the worktree was made, in seconds since the epoch."""
    files: dict[str, RecordedFile]

    def moved(self, commit: str, files: Mapping[str, TreeFile]) -> "Record":
        """The record of another version in the same place; files that do not differ are known to be there."""
        kept = self.files
        return self.model_copy(
            update={
                "commit": commit,
                "files": {
                    path: kept[path]
                    if path in kept and kept[path].oid == file.oid
                    else RecordedFile.expected(file)
                    for path, file in files.items()
                },
            }
        )

    def write(self, path: Path) -> None:
        """Durably, whole or not at all."""
        write_durably(path, self.model_dump_json().encode())


def read_record(path: Path) -> Record | None:
    """A record, or None where there is none.

    Raises:
        Corrupt: it is damaged.
    """
    try:
        with path.open("rb") as file:
            return Record.model_validate_json(file.read(MAX_RECORD_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise Corrupt(
            f"{path}, which says what was written into a worktree, is damaged",
            hint="hyprstream worktree remove --force, then worktree add",
        ) from error


def walk(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield (relative path, lstat) of everything in a worktree that is no directory, except git's own file."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(f"{directory}/{prefix}") as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{path}/")
                elif path != ".git":
                    yield path, entry.stat(follow_symlinks=False)


def is_unchanged(directory: Path, record: Record) -> bool:
    """Whether every file is there as it was written, and no other. Reads no content and starts no process."""
    n_found = 0
    for path, found in walk(directory):
        recorded = record.files.get(path)
        if recorded is None or recorded.stat != Stat.of(found):
            return False
        n_found += 1
    return n_found == len(record.files)


def stat_at(path: Path) -> Stat | None:
    """What is there, or None; a directory counts as nothing."""
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if stat.S_ISDIR(found.st_mode) else Stat.of(found)
