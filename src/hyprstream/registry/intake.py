"""Files on their way into a version: which become Git LFS pointers, and how. Knows no branch and no commit."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from hyprstream.core.errors import Invalid, NotFound
from hyprstream.core.versions import Pointer, TreeFile
from hyprstream.registry.blobs import BlobStore
from hyprstream.registry.commits import hash_files
from hyprstream.registry.git import Git
from hyprstream.registry.lfs import encode_pointer, parse_pointer
from hyprstream.registry.trees import MAX_POINTER_BYTES, check_path

LARGE_BYTES = 1 << 20
"""Files from this size on are kept as large files."""

_WEIGHTS = (".gguf", ".safetensors", ".bin", ".pt")

Content = Path | bytes | Pointer
"""A file to read, a content, or a large file that is in the blob store already."""


def is_large(path: str, size: int) -> bool:
    """Whether a file becomes a pointer: weights always do, others from `LARGE_BYTES` on."""
    return size >= LARGE_BYTES or path.lower().endswith(_WEIGHTS)


def take_in(git: Git, blobs: BlobStore, contents: Mapping[str, Content]) -> dict[str, TreeFile]:
    """Store contents; large ones in the blob store, and for each what a tree holds of it.

    Raises:
        Invalid: a path cannot be a model's, or a file is no regular file or a pointer to what is not here.
        NotFound: a file does not exist.
    """
    for path in contents:
        check_path(path)
    with git.scratch() as directory:
        small: dict[str, Path] = {}
        pointers: dict[str, Pointer | None] = {}
        for i, (path, content) in enumerate(contents.items()):
            file = directory / str(i)
            pointers[path] = pointer = _pointer(blobs, path, content, file)
            if pointer is not None:
                file.write_bytes(encode_pointer(pointer))
            elif isinstance(content, bytes):
                file.write_bytes(content)
            small[path] = content if pointer is None and isinstance(content, Path) else file
        oids = hash_files(git, list(small.values()))
        return {
            path: TreeFile(
                path, oid, pointer.size if pointer else small[path].stat().st_size, pointer
            )
            for (path, pointer), oid in zip(pointers.items(), oids, strict=True)
        }


def adopt(git: Git, blobs: BlobStore, file: Path) -> Pointer:
    """Make a large file of a worktree the blob itself: no byte is copied where the disk has hard links.

    The file keeps its name and content throughout. From here on it is read-only, as its content is other versions' too.
    """
    with git.scratch() as directory:
        name = directory / "file"
        try:
            os.link(file, name)
        except OSError:
            pointer = blobs.add(file)
        else:
            pointer = blobs.add(name, move=True)
    blobs.link(pointer, file)
    return pointer


def _pointer(blobs: BlobStore, path: str, content: Content, scratch: Path) -> Pointer | None:
    """The pointer that stands for a content; None for one that stands for itself."""
    if isinstance(content, Pointer):
        return content
    if isinstance(content, Path):
        size = regular_size(content)
        if is_large(path, size) and not (size <= MAX_POINTER_BYTES and _is_pointer(content)):
            return blobs.add(content)
    else:
        size = len(content)
        if is_large(path, size) and parse_pointer(content) is None:
            scratch.write_bytes(content)
            return blobs.add(scratch, move=True)
    if size > MAX_POINTER_BYTES:
        return None
    return _written_pointer(
        blobs, path, content.read_bytes() if isinstance(content, Path) else content
    )


def _is_pointer(file: Path) -> bool:
    return parse_pointer(file.read_bytes()) is not None


def _written_pointer(blobs: BlobStore, path: str, content: bytes) -> Pointer | None:
    pointer = parse_pointer(content)
    if pointer is not None and not blobs.has(pointer.sha256):
        raise Invalid(
            f"{path} is a Git LFS pointer and not the file it stands for, which is not here either",
            param="path",
            hint="put the file itself there",
        )
    return pointer


def regular_size(file: Path) -> int:
    """Bytes of a regular file.

    Raises:
        NotFound: there is none.
        Invalid: it is something else.
    """
    try:
        found = file.lstat()
    except FileNotFoundError:
        raise NotFound(f"no file {file}", kind="file") from None
    if not stat.S_ISREG(found.st_mode):
        raise Invalid(
            f"{file} is not a regular file", param="path", hint="put the file itself there"
        )
    return found.st_size
