"""Two versions made one. Knows what git merges and what a person has to; knows no remote.

<model>/repo.git/worktrees/<id>/merge.json   a merge whose conflicts wait, while it stands

Texts that both sides changed get git's conflict markers. Of a large file, and of what only one side kept, ours stays in place
until somebody replaces it or says which side to take. Ordered for a crash as in `worktrees.py`: `merge.json` is written before
the first file and says afterwards what was put in place; whoever comes next puts it there if it does not say so.
"""

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from hyprstream.core.errors import Conflict, Corrupt, NotFound
from hyprstream.core.files import write_durably
from hyprstream.core.versions import TreeFile
from hyprstream.registry.commits import write_tree
from hyprstream.registry.git import Git
from hyprstream.registry.trees import read_tree
from hyprstream.registry.worktree_record import Oid, Record, RecordedFile, stat_at
from hyprstream.registry.worktrees import Worktrees

Side = Literal["ours", "theirs"]

MAX_STATE_BYTES = 16 << 20

_MARKER = re.compile(rb"^(<{7} |={7}$|>{7} )", re.MULTILINE)
_MAX_MARKED_BYTES = 8 << 20


class Merging(BaseModel):
    """A merge whose conflicts wait."""

    model_config = ConfigDict(frozen=True)

    branch: str
    source: str
    """As the user named it."""
    ours: Oid
    theirs: Oid
    tree: Oid
    """What was put in place."""
    message: str
    conflicts: tuple[str, ...]
    placed: dict[str, RecordedFile] | None = None
    """None until everything is in place."""


class Merges:
    """Merges with conflicts, in the worktrees of one model."""

    def __init__(self, worktrees: Worktrees) -> None:
        self._worktrees = worktrees

    def find(self, git: Git, branch: str) -> Merging | None:
        """The merge that waits in a branch's worktree.

        Raises:
            Corrupt: its record cannot be read.
        """
        try:
            with self._path(branch).open("rb") as file:
                merging = Merging.model_validate_json(file.read(MAX_STATE_BYTES))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise Corrupt(
                f"{self._path(branch)}, which remembers a merge, is damaged",
                hint="delete it, then commit the worktree or make it anew",
            ) from error
        # A branch that moved since has the merge in it.
        return merging if git.branches().get(branch) == merging.ours else None

    def read(self, git: Git, branch: str) -> Merging:
        """The merge that waits.

        Raises:
            Conflict: none does.
        """
        merging = self.find(git, branch)
        if merging is None:
            raise Conflict(f"no merge waits in {branch!r}", hint="hyprstream merge begins one")
        return merging

    def begin(self, git: Git, record: Record, merging: Merging) -> None:
        """Put what could be merged in place, and remember what could not.

        Raises:
            Invalid: the two trees together are none for a model.
            NotFound: a large file is not here.
        """
        self._worktrees.require_present(read_tree(git, merging.tree))
        self._write(merging)
        self._place(git, record, merging)

    def recover(self, git: Git) -> None:
        """End what a crash interrupted."""
        for path in (git.git_dir / "worktrees").glob("*/merge.json"):
            branch = path.parent.name.replace("@", "/")
            record, merging = self._worktrees.find(branch), self.find(git, branch)
            if record is None or merging is None:
                path.unlink()
            elif merging.placed is None:
                self._place(git, record, merging)

    def is_pending(self, git: Git) -> bool:
        """Whether a crash interrupted the beginning of a merge, or its end."""
        for path in (git.git_dir / "worktrees").glob("*/merge.json"):
            merging = self.find(git, path.parent.name.replace("@", "/"))
            if merging is None or merging.placed is None:
                return True
        return False

    def unresolved(self, merging: Merging) -> list[str]:
        """The conflicts nobody has settled: files with markers, and files that are still as they were put in place."""
        directory = self._worktrees.path(merging.branch)
        placed = merging.placed or {}
        return [
            path for path in merging.conflicts if _is_unresolved(directory / path, placed.get(path))
        ]

    def take(self, git: Git, merging: Merging, paths: list[str], side: Side) -> None:
        """Settle conflicts by taking one side's files whole."""
        files = read_tree(git, merging.ours if side == "ours" else merging.theirs)
        record = self._worktrees.read(merging.branch)
        wanted = {path: files[path] for path in paths if path in files}
        self._worktrees.require_present(wanted)
        # Only these files are anybody's business here: a record of nothing else leaves the others alone.
        partial = record.model_copy(
            update={
                "files": {path: f for path, f in (merging.placed or {}).items() if path in paths}
            }
        )
        self._worktrees.put(git, partial, wanted, force=True)

    def abort(self, git: Git, merging: Merging) -> None:
        """Put the branch's own files back in place of everything the merge brought."""
        record = self._worktrees.read(merging.branch)
        ours = {path: file.tree_file(path) for path, file in record.files.items()}
        brought = {
            path: RecordedFile.expected(file) for path, file in read_tree(git, merging.tree).items()
        }
        both = record.model_copy(update={"files": {**brought, **record.files}})
        self._worktrees.put(git, both, ours, force=True)
        _, touched = self._worktrees.changes(record)
        self._worktrees.remember(record, touched)
        self.forget(merging.branch)

    def forget(self, branch: str) -> None:
        """A merge is over."""
        self._path(branch).unlink(missing_ok=True)

    def _place(self, git: Git, record: Record, merging: Merging) -> None:
        placed = self._worktrees.put(git, record, read_tree(git, merging.tree))
        self._write(merging.model_copy(update={"placed": placed}))

    def _write(self, merging: Merging) -> None:
        write_durably(self._path(merging.branch), merging.model_dump_json().encode())

    def _path(self, branch: str) -> Path:
        return self._worktrees.admin(branch) / "merge.json"


def is_ancestor(git: Git, commit: str, of: str) -> bool:
    """Whether one commit is among those another one is made of, or is itself that one."""
    # The exit code is the answer; `rev-list` says the same as text.
    return not git.run("rev-list", "--max-count=1", commit, f"^{of}", "--").strip()


def merge_trees(git: Git, ours: str, theirs: str) -> tuple[str, tuple[str, ...]]:
    """The tree of both, and the paths that git could not merge; large files among those are ours.

    Raises:
        Conflict: they have no commit in common.
    """
    output = git.run(
        "merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", ours, theirs, ok=(0, 1)
    )
    tree, *paths = output.decode(errors="replace").rstrip("\0").split("\0")
    conflicts = tuple(sorted(set(paths)))
    if not conflicts:
        return tree, ()
    mine, other = read_tree(git, ours), read_tree(git, theirs)
    kept = {
        path: mine[path].oid
        for path in conflicts
        if path in mine and _is_large(mine[path], other.get(path))
    }
    return (write_tree(git, tree, dict(kept)) if kept else tree), conflicts


def _is_large(mine: TreeFile, other: TreeFile | None) -> bool:
    return mine.pointer is not None or (other is not None and other.pointer is not None)


def _is_unresolved(path: Path, placed: RecordedFile | None) -> bool:
    found = stat_at(path)
    if placed is None:
        return (
            False  # it was not put there, so only its absence can be meant, or the user's own file
        )
    if found == placed.stat:
        return True
    return found is not None and found.size <= _MAX_MARKED_BYTES and _has_markers(path)


def _has_markers(path: Path) -> bool:
    try:
        found = {marker[:7] for marker in _MARKER.findall(path.read_bytes())}
    except FileNotFoundError:
        raise NotFound(f"no file {path}", kind="file") from None
    return {b"<<<<<<<", b">>>>>>>"} <= found
