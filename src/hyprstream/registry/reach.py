"""Which large files a set of commits needs, with all that came before them. Knows git's objects; knows no blob store.

What commits hold never changes, so each answer is written down under the commits it was asked for.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from hyprstream.core.errors import Corrupt
from hyprstream.core.files import write_durably
from hyprstream.core.versions import Pointer
from hyprstream.registry.git import Git
from hyprstream.registry.lfs import parse_pointer

MAX_POINTER_BYTES = 1024
"""A pointer is shorter (`git-lfs` specification)."""

_POINTERS = TypeAdapter(set[Pointer])


class Reach:
    """Answers of one registry."""

    def __init__(self, directory: Path) -> None:
        self._answers = directory / "reach"

    def pointers(self, git: Git, oids: set[str]) -> set[Pointer]:
        """The large files of all versions that `oids` (commits or tags) reach."""
        if not oids:
            return set()
        key = hashlib.sha256("\n".join(sorted(oids)).encode()).hexdigest()
        path = self._answers / f"{key}.json"
        try:
            return _POINTERS.validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            found = set(_walk(git, oids))
        self._answers.mkdir(parents=True, exist_ok=True)
        write_durably(path, _POINTERS.dump_json(found), mode=0o644)
        return found

    def forget(self) -> None:
        """Forget every answer."""
        for path in self._answers.glob("*.json"):
            path.unlink(missing_ok=True)


def _walk(git: Git, oids: set[str]) -> Iterator[Pointer]:
    objects = git.run(
        "rev-list",
        "--objects",
        "--no-object-names",
        f"--filter=blob:limit={MAX_POINTER_BYTES}",
        "--stdin",
        stdin="\n".join(sorted(oids)).encode() + b"\n",
        timeout=600,
    )
    kinds = git.run("cat-file", "--batch-check", stdin=objects, timeout=600).decode().splitlines()
    blobs = [line.split()[0] for line in kinds if line.split()[1] == "blob"]
    output = git.run(
        "cat-file", "--batch", stdin="".join(f"{oid}\n" for oid in blobs).encode(), timeout=600
    )
    offset = 0
    while offset < len(output):
        end = output.index(b"\n", offset)
        oid, _, size = output[offset:end].decode().partition(" blob ")
        if not size:
            raise Corrupt(f"{git.git_dir} lacks the object {oid}", hint="git fsck")
        content = output[end + 1 : end + 1 + int(size)]
        offset = end + 1 + int(size) + 1
        if (pointer := parse_pointer(content)) is not None:
            yield pointer
