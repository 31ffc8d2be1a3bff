"""What one version holds: paths, ids, pointers. Refuses what no model needs and a file system must not be given.

A tree comes from whoever made the repository. Nothing of it is written anywhere before all of its paths were read here.
"""

import os
import re
import unicodedata
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass

from hyprstream.core.errors import Corrupt, Invalid, TooLarge
from hyprstream.core.versions import ChangeKind, FileChange, TreeFile
from hyprstream.registry.git import Git
from hyprstream.registry.lfs import parse_pointer

MAX_FILES = 10_000
MAX_PATH_BYTES = 1024
MAX_NAME_BYTES = 255
MAX_POINTER_BYTES = 1024
"""Longest content that can be a Git LFS pointer, by its specification."""

_BATCH_BYTES = 16 << 20
_GIT_DIRECTORY = re.compile(r"(\.git|git~\d+)[. ]*", re.IGNORECASE)
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_KINDS = {"120000": "a symbolic link", "160000": "a submodule"}


@dataclass(frozen=True, slots=True)
class _Entry:
    path: str
    oid: str
    size: int


def check_path(path: str) -> None:
    """Return if a file of a model may be called this.

    Raises:
        Invalid: it may not; the message names the path and the reason.
    """
    if reason := _objection(path):
        raise Invalid(
            f"the path {path[:200]!a} {reason}",
            param="path",
            hint="no file of a model can be called this",
        )


def read_tree(git: Git, treeish: str) -> dict[str, TreeFile]:
    """The files of a commit or tree by path, in order.

    Raises:
        Invalid: it holds a symbolic link, a submodule, or a path that leads elsewhere.
        TooLarge: it holds more than `MAX_FILES` files.
    """
    entries = list(_entries(git, treeish))
    for path in _directories(entry.path for entry in entries) & {entry.path for entry in entries}:
        raise Invalid(f"{path!r} is a file and a directory at once", param="path")
    small = [entry for entry in entries if entry.size <= MAX_POINTER_BYTES]
    contents = dict(read_blobs(git, {entry.oid: entry.size for entry in small}))
    files: dict[str, TreeFile] = {}
    for entry in entries:
        pointer = parse_pointer(contents[entry.oid]) if entry.oid in contents else None
        size = entry.size if pointer is None else pointer.size
        files[entry.path] = TreeFile(entry.path, entry.oid, size, pointer)
    return files


def read_blobs(git: Git, sizes: Mapping[str, int]) -> Generator[tuple[str, bytes]]:
    """Yield (id, content) of each blob. Reads several at once, but never much more than 16 MiB: large ones are not for here.

    Raises:
        Corrupt: one of them is missing.
    """
    batch: list[str] = []
    n_bytes = 0
    for oid, size in sizes.items():
        if batch and n_bytes + size > _BATCH_BYTES:
            yield from _read_batch(git, batch, n_bytes)
            batch, n_bytes = [], 0
        batch.append(oid)
        n_bytes += size
    if batch:
        yield from _read_batch(git, batch, n_bytes)


def differences(old: Mapping[str, TreeFile], new: Mapping[str, TreeFile]) -> list[FileChange]:
    """The files in which two versions differ, by path."""
    changes: list[FileChange] = []
    for path in sorted({*old, *new}):
        before, after = old.get(path), new.get(path)
        if before is None:
            changes.append(FileChange(path, ChangeKind.ADDED, None, after))
        elif after is None:
            changes.append(FileChange(path, ChangeKind.DELETED, before, None))
        elif before.oid != after.oid:
            changes.append(FileChange(path, ChangeKind.MODIFIED, before, after))
    return changes


def _entries(git: Git, treeish: str) -> Iterator[_Entry]:
    output = git.run("ls-tree", "-r", "-z", "-l", "--full-tree", "--end-of-options", treeish)
    lines = output.split(b"\0")[:-1]
    if len(lines) > MAX_FILES:
        raise TooLarge(f"the version holds {len(lines)} files; a model has at most {MAX_FILES}")
    for line in lines:
        head, _, name = line.partition(b"\t")
        mode, _, oid, size = head.decode().split()
        path = os.fsdecode(name)
        check_path(path)
        if mode in _KINDS:
            raise Invalid(
                f"{path!r} is {_KINDS[mode]}, which no model may hold",
                param="path",
                hint="its owner can replace it by the files themselves",
            )
        yield _Entry(path, oid, int(size))


def _read_batch(git: Git, oids: list[str], n_bytes: int) -> Iterator[tuple[str, bytes]]:
    stdin = "".join(f"{oid}\n" for oid in oids).encode()
    output = git.run("cat-file", "--batch", stdin=stdin, max_bytes=n_bytes + 100 * len(oids))
    position = 0
    for oid in oids:
        end = output.index(b"\n", position)
        _, kind, *size = output[position:end].decode().split()
        if kind != "blob":
            raise Corrupt(f"the object {oid} is {kind}", hint="hyprstream verify")
        start, position = end + 1, end + 1 + int(size[0])
        yield oid, output[start:position]
        position += 1


def _directories(paths: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        while path := path.rpartition("/")[0]:
            found.add(path)
    return found


def _objection(path: str) -> str | None:
    try:
        n_bytes = len(path.encode())
    except UnicodeEncodeError:
        return "is not UTF-8"
    if n_bytes > MAX_PATH_BYTES:
        return f"has {n_bytes} bytes; {MAX_PATH_BYTES} is the most"
    if any(unicodedata.category(c) in _INVISIBLE for c in path):
        return "has characters that cannot be seen"
    if "\\" in path:
        return "has a backslash"
    for name in path.split("/"):
        if name in ("", ".", ".."):
            return "is absolute or leads elsewhere"
        if _GIT_DIRECTORY.fullmatch(name):
            return "is git's own"
        if len(name.encode()) > MAX_NAME_BYTES:
            return f"has a name of more than {MAX_NAME_BYTES} bytes"
    return None
