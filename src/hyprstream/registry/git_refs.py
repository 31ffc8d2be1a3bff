"""The names in a repository, read as files. Starts no process; format: `gitrepository-layout(5)`, `git-pack-refs(1)`."""

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hyprstream.core.errors import Corrupt

MAX_REF_BYTES = 4096
MAX_PACKED_BYTES = 64 << 20
MAX_SYMBOLIC = 5

_OID = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Ref:
    """What a name stands for."""

    oid: str
    peeled: str | None = None
    """The commit an annotated tag names, where packed-refs says so."""


def read_refs(git_dir: Path, prefix: str = "refs/") -> dict[str, Ref]:
    """Every reference whose name starts with `prefix` (which ends with `/`), in order of their names.

    Raises:
        Corrupt: a file of references is damaged.
    """
    # Loose ones first: packing writes the packed file before it deletes a loose one, so none can be missed.
    loose = dict(_loose(git_dir, prefix))
    refs = _packed(git_dir, prefix) | loose
    return {name: refs[name] for name in sorted(refs)}


def read_ref(git_dir: Path, name: str) -> str | None:
    """The object id a reference (`HEAD`, `refs/heads/main`) stands for; None where there is none.

    Raises:
        Corrupt: its file is damaged.
    """
    for _ in range(MAX_SYMBOLIC):
        text = _read(git_dir / name)
        if text is None:
            found = _packed(git_dir, name).get(name)
            return None if found is None else found.oid
        if not text.startswith("ref: "):
            return _oid(text, git_dir / name)
        name = text.removeprefix("ref: ").strip()
        if not name.startswith("refs/") or ".." in name:
            raise Corrupt(f"{git_dir}: a reference points at {name[:80]!r}", hint="git fsck")
    raise Corrupt(f"{git_dir}: references point at each other", hint="git fsck")


def is_symbolic_ref(git_dir: Path, name: str) -> bool:
    """Whether a reference is another name of another one."""
    return (_read(git_dir / name) or "").startswith("ref: ")


def head_branch(git_dir: Path) -> str | None:
    """The branch HEAD names, whether it exists or not; None where HEAD is a commit."""
    text = _read(git_dir / "HEAD") or ""
    return text.strip().removeprefix("ref: refs/heads/") if text.startswith("ref: ") else None


def peel_loose(git_dir: Path, oid: str) -> str | None:
    """The commit an object id means, if it is a loose tag or commit and no process is needed to know."""
    for _ in range(MAX_SYMBOLIC):
        try:
            with (git_dir / "objects" / oid[:2] / oid[2:]).open("rb") as file:
                head = zlib.decompressobj().decompress(file.read(MAX_REF_BYTES), 256)
        except (OSError, zlib.error):
            return None
        if head.startswith(b"commit "):
            return oid
        match = re.match(rb"tag \d+\0object ([0-9a-f]{40})\n", head)
        if match is None:
            return None
        oid = match[1].decode()
    return None


def _loose(git_dir: Path, prefix: str) -> Iterator[tuple[str, Ref]]:
    root = str(git_dir)
    for directory, _, files in os.walk(f"{root}/{prefix.rstrip('/')}"):
        for file in files:
            name = f"{directory[len(root) + 1 :]}/{file}"
            if file.endswith(".lock"):
                continue
            # A reference to nothing is left out, as `git for-each-ref` does.
            if (oid := read_ref(git_dir, name)) is not None:
                yield name, Ref(oid)


def _packed(git_dir: Path, prefix: str) -> dict[str, Ref]:
    path = git_dir / "packed-refs"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PACKED_BYTES)
    except FileNotFoundError:
        return {}
    refs: dict[str, Ref] = {}
    name = ""
    for line in os.fsdecode(content).split("\n"):
        if line.startswith("^"):
            if name in refs:
                refs[name] = Ref(refs[name].oid, _oid(line[1:], path))
        elif line and not line.startswith("#"):
            oid, _, name = line.partition(" ")
            if name.startswith(prefix):
                refs[name] = Ref(_oid(oid, path))
    return refs


def _read(path: Path) -> str | None:
    with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError), path.open("rb") as f:
        return os.fsdecode(f.read(MAX_REF_BYTES))
    return None


def _oid(text: str, path: Path) -> str:
    if not _OID.fullmatch(text.strip()):
        raise Corrupt(f"{path} holds {text[:40]!r} instead of an object id", hint="git fsck")
    return text.strip()
