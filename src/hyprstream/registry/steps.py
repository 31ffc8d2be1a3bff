"""The steps that move a branch and its worktree. Knows their order, and with it what a crash may leave.

The branch is the truth. All that leads up to a change of it (contents, trees, commits, large files) is stored first under names
that are digests, where nobody looks yet; then the branch moves in one step, and only from where it was; then its worktree
follows (`worktrees.py`). So a crash leaves nothing half done: before that step nothing has changed, after it the next change
does the rest.
"""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hyprstream.core.errors import Conflict
from hyprstream.core.versions import ChangeKind, FileChange, TreeFile
from hyprstream.registry.blobs import BlobStore
from hyprstream.registry.commits import write_commit, write_tree
from hyprstream.registry.git import Git
from hyprstream.registry.intake import Content, adopt, is_large, regular_size, take_in
from hyprstream.registry.merge import Merges
from hyprstream.registry.names import Names
from hyprstream.registry.trees import MAX_POINTER_BYTES, check_path, read_tree
from hyprstream.registry.worktree_record import Record, RecordedFile, Stat, stat_at
from hyprstream.registry.worktrees import Worktrees

_TICK_SECONDS = 0.02
"""Longer than the clock of any file system stands still."""


class Steps:
    """Changes one model, one change at a time."""

    def __init__(
        self, git: Git, blobs: BlobStore, worktrees: Worktrees, merges: Merges, names: Names
    ) -> None:
        self._git = git
        self._blobs = blobs
        self._worktrees = worktrees
        self._merges = merges
        self._names = names
        self._model = git.git_dir.parent.name

    @contextmanager
    def changing(self) -> Generator[Git]:
        """The right to change the model, after what a crash interrupted has been ended.

        Raises:
            Conflict: another process has it for long.
        """
        with self._git.exclusive() as git:
            self._worktrees.recover(git)
            self._merges.recover(git)
            yield git

    def commit(
        self,
        git: Git,
        record: Record,
        changes: Sequence[FileChange],
        message: str,
        *,
        author: str | None = None,
        also: tuple[str, ...] = (),
    ) -> str:
        """Make changes of a worktree the branch's next commit; `also` are its further parents.

        Raises:
            Invalid: there is something no version can hold.
            Conflict: a file changes meanwhile, or the branch has moved.
        """
        directory = self._worktrees.path(record.branch)
        gone = [change.path for change in changes if change.kind is ChangeKind.DELETED]
        stored, stats = self._store(git, directory, [c.path for c in changes if c.path not in gone])
        oids = {path: file.oid for path, file in stored.items()}
        tree = write_tree(git, record.commit, {**oids, **dict.fromkeys(gone)})
        commit = write_commit(git, tree, (record.commit, *also), message, author)
        files = {path: file for path, file in record.files.items() if path not in gone}
        for path, file in stored.items():
            files[path] = RecordedFile.expected(file).model_copy(update={"stat": stats[path]})
        planned = record.model_copy(update={"commit": commit, "files": dict(sorted(files.items()))})
        self._worktrees.plan(planned)
        git.run("update-ref", f"refs/heads/{record.branch}", commit, record.commit)
        self._worktrees.follow(git, record.branch)
        return commit

    def move(self, git: Git, branch: str, old: str, new: str) -> None:
        """Move a branch to a commit that is there; a worktree without changes follows.

        Raises:
            Conflict: the branch is not at `old`.
            Invalid: the commit holds what no model may.
            NotFound: one of its large files is not here.
        """
        files = read_tree(git, new)
        record = self._worktrees.find(branch)
        if record is not None:
            self._worktrees.require_present(files)
            self._worktrees.plan(record.moved(new, files))
        if old != new:
            git.run("update-ref", f"refs/heads/{branch}", new, old)
        if record is not None:
            self._worktrees.follow(git, branch)

    def remember(self, record: Record, touched: Mapping[str, Stat]) -> None:
        """Record anew files that were touched and have not changed, unless somebody else was here meanwhile."""
        with self.changing():
            if self._worktrees.find(record.branch) == record:
                self._worktrees.remember(record, touched)

    def require_current(self, git: Git, branch: str) -> Record:
        """The record of a worktree that shows its branch.

        Raises:
            NotFound: the branch has no worktree.
            Conflict: the branch has moved since.
        """
        record = self._worktrees.read(branch)
        if record.commit != self._names.head(git, branch):
            raise Conflict(
                f"{branch} has moved since its files were written",
                hint=f"hyprstream checkout {self._model}:{branch}",
            )
        return record

    def require_clean(self, git: Git, record: Record) -> Record:
        """The record of a worktree without changes, as it is now.

        Raises:
            Conflict: it has some, or a merge waits.
        """
        changes, touched = self._worktrees.changes(record)
        if changes or self._merges.find(git, record.branch) is not None:
            names = ", ".join(change.path for change in changes[:5]) or "a merge waits"
            raise Conflict(
                f"{self._model}:{record.branch} has changes that are not committed: {names}",
                hint=f"hyprstream status {self._model}:{record.branch}, then commit or merge --abort",
            )
        return self._worktrees.remember(record, touched)

    def _store(
        self, git: Git, directory: Path, paths: list[str]
    ) -> tuple[dict[str, TreeFile], dict[str, Stat | None]]:
        for path in paths:
            check_path(path)
        before = _settled_stats(directory, paths)
        contents: dict[str, Content] = {
            path: self._content(git, directory / path, path) for path in paths
        }
        stored = take_in(git, self._blobs, contents)
        after = {path: stat_at(directory / path) for path in paths}
        for path, file in stored.items():
            if file.pointer is None and after[path] != before[path]:
                raise Conflict(f"{path} changes while it is read", hint="wait until it is complete")
        return stored, after

    def _content(self, git: Git, file: Path, path: str) -> Content:
        size = regular_size(file)
        # What is as short as a pointer may be one, and is looked into.
        if is_large(path, size) and size > MAX_POINTER_BYTES:
            return adopt(git, self._blobs, file)
        return file


def _settled_stats(directory: Path, paths: list[str]) -> dict[str, Stat | None]:
    """What files look like, once the clock has left the moment they were written in, so that any later change shows."""
    stats = {path: stat_at(directory / path) for path in paths}
    newest = max((found.mtime_ns for found in stats.values() if found), default=0) / 1e9
    if 0 <= time.time() - newest < _TICK_SECONDS:
        time.sleep(_TICK_SECONDS)
        stats = {path: stat_at(directory / path) for path in paths}
    return stats
