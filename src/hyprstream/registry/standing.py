"""What a branch meant when it was last looked up, while the files that say so stand as they stood. Knows stamps of files.

A server asks what a reference means for every request. To ask the files whether they have changed takes a few microseconds;
to read them and what they point to, hundreds.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hyprstream.core.models import StoredModel
from hyprstream.core.refs import ModelRef, is_model_name
from hyprstream.registry.git_refs import is_symbolic_ref
from hyprstream.registry.shelf import Shelf

MAX_REMEMBERED = 4096

_Stamps = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class _Answer:
    model: StoredModel
    weights: tuple[str, ...]
    """Of a split model, every file."""
    stamps: _Stamps


class Standing:
    """Models by the branch that means them. Tags, commits, digests and UUIDs are not remembered."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._answers: dict[ModelRef, _Answer] = {}

    def resolve(self, ref: ModelRef, look_up: Callable[[], StoredModel]) -> StoredModel:
        """What `look_up` says of a reference, or said when everything it read was as it is now."""
        if not is_model_name(ref.name) or ref.is_digest:
            return look_up()
        known = self._answers.get(ref)
        if known is not None and known.stamps == self._stamps(ref, known.weights):
            return known.model
        # Read before the answer: a change between the two makes the stamps old, and not the answer.
        before = self._stamps(ref, ())
        model = look_up()
        weights = self._shelf.library.served_files(model.path)
        stamps = self._stamps(ref, weights)
        if self._is_branch(ref) and stamps[: len(before)] == before:
            if len(self._answers) >= MAX_REMEMBERED:
                self._answers.clear()
            self._answers[ref] = _Answer(model, weights, stamps)
        return model

    def knows(self, ref: ModelRef) -> bool:
        """Whether `ref` is a branch that can be served and stands as it stood."""
        known = self._answers.get(ref)
        return known is not None and known.stamps == self._stamps(ref, known.weights)

    def _is_branch(self, ref: ModelRef) -> bool:
        git = self._shelf.repository(ref.name)
        # One that only points at another stands still while that one moves.
        is_symbolic = is_symbolic_ref(git.git.git_dir, f"refs/heads/{ref.ref}")
        return ref.ref in git.branches() and not is_symbolic

    def _stamps(self, ref: ModelRef, weights: tuple[str, ...]) -> _Stamps:
        git = self._shelf.directory(ref.name) / "repo.git"
        paths: tuple[Path | str, ...] = (
            self._shelf.state.path(ref.name),
            git / "refs" / "heads" / ref.ref,
            # Of the same name they would be ambiguous.
            git / "refs" / "tags" / ref.ref,
            git / "refs" / "remotes" / ref.ref,
            git / "packed-refs",
            *weights,
        )
        return tuple(map(_stamp, paths))


def _stamp(path: Path | str) -> tuple[int, int, int] | None:
    # References and records are replaced and never written to, so that a new one has another inode.
    try:
        found = os.stat(path)  # noqa: PTH116  (half the cost of Path.stat, six times per request)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
