"""The files of branches on disk: made, compared, brought to another version. Knows no merge and no remote.

<model>/worktrees/<branch>/                     the files; `.git` there makes it a worktree of git's
<model>/repo.git/worktrees/<id>/                git's side of it (`gitrepository-layout(5)`)
<model>/repo.git/worktrees/<id>/written.json    what was last written there (`worktree_record.py`)
<model>/repo.git/worktrees/<id>/next.json       what is to be written there, while it is

Why a crash does no harm. A new worktree is put together elsewhere and renamed. To bring one to another commit, `next.json` is
written first, then the branch moves (if it has to), then one file after the other is replaced by renaming, then `written.json`
is replaced and `next.json` deleted. Whoever changes the repository next looks for `next.json`: if the branch is where it says,
the rest of the steps is done, each of which can be done twice; if not, nothing had happened yet and it is deleted.
"""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from hyprstream.core.errors import Conflict, Corrupt, Invalid, NotFound
from hyprstream.core.files import sync_directory
from hyprstream.core.refs import is_version
from hyprstream.core.versions import ChangeKind, FileChange, TreeFile, Worktree
from hyprstream.registry.blobs import BlobStore
from hyprstream.registry.git import Git
from hyprstream.registry.sources.partial import sha256_of
from hyprstream.registry.trees import MAX_FILES, read_blobs
from hyprstream.registry.worktree_record import (
    Record,
    RecordedFile,
    Stat,
    is_unchanged,
    read_record,
    stat_at,
    walk,
)

_SMALL_BYTES = 1 << 20
"""Contents up to this size are read into memory, several at once."""

_log = logging.getLogger(__name__)


class Worktrees:
    """All worktrees of one model. Methods that change something are given a Git that has the right to."""

    def __init__(
        self, directory: Path, git: Git, blobs: BlobStore, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._directory = directory
        self._git = git
        self._blobs = blobs
        self._clock = clock

    def path(self, branch: str) -> Path:
        """Where the files of a branch are, or would be.

        Raises:
            Invalid: no directory can be called so.
        """
        if not is_version(branch):
            raise Invalid(
                f"{branch[:80]!r} cannot be a worktree's name",
                param="branch",
                hint="letters, digits, '.', '_', '-' and '/'; make a branch with such a name there",
            )
        return self._directory / branch

    def admin(self, branch: str) -> Path:
        """Git's side of a worktree."""
        # `@` is in no version, so no two branches share a directory.
        return self._git.git_dir / "worktrees" / branch.replace("/", "@")

    def all(self) -> list[Worktree]:
        """All of them by branch, without a process. One whose record is damaged is logged and left out."""
        found: list[Worktree] = []
        with suppress(FileNotFoundError):
            for admin in sorted((self._git.git_dir / "worktrees").iterdir()):
                branch = admin.name.replace("@", "/")
                try:
                    if is_version(branch) and (record := self.find(branch)) is not None:
                        found.append(self._worktree(record))
                except Corrupt as error:
                    _log.warning("worktree left out: %s", error)
        return found

    def find(self, branch: str) -> Record | None:
        """What was last written for a branch; None where it has no worktree.

        Raises:
            Corrupt: that cannot be read.
        """
        if not is_version(branch) or not (self.path(branch) / ".git").is_file():
            return None
        record = read_record(self.admin(branch) / "written.json")
        return record if record is not None and record.branch == branch else None

    def read(self, branch: str) -> Record:
        """What was last written for a branch.

        Raises:
            NotFound: it has no worktree.
            Corrupt: that cannot be read.
        """
        record = self.find(branch)
        if record is None:
            raise NotFound(
                f"the branch {branch!r} has no worktree",
                kind="worktree",
                hint=f"hyprstream worktree add {self._directory.parent.name} {branch}",
            )
        return record

    def get(self, branch: str) -> Worktree:
        """The worktree of a branch.

        Raises:
            NotFound: it has none.
        """
        return self._worktree(self.read(branch))

    def is_dirty(self, branch: str) -> bool:
        """Whether something there is not as it was written; asks sizes and times alone."""
        return not is_unchanged(self.path(branch), self.read(branch))

    def changes(self, record: Record) -> tuple[list[FileChange], dict[str, Stat]]:
        """What differs from what was written, and what only looks so: files to be recorded anew, with what they look like.

        Raises:
            TooLarge: there are too many files.
        """
        directory = self.path(record.branch)
        missing = dict(record.files)
        changes: list[FileChange] = []
        touched: dict[str, Stat] = {}
        for n_files, (path, found) in enumerate(walk(directory)):
            if n_files > 2 * MAX_FILES:
                raise Invalid(f"{directory} holds more than {n_files} files", param="path")
            recorded = missing.pop(path, None)
            if recorded is None:
                changes.append(FileChange(path, ChangeKind.ADDED))
            elif recorded.stat != (seen := Stat.of(found)):
                if self._has_content(directory / path, recorded):
                    touched[path] = seen
                else:
                    old = recorded.tree_file(path)
                    changes.append(FileChange(path, ChangeKind.MODIFIED, old))
        changes += [
            FileChange(path, ChangeKind.DELETED, recorded.tree_file(path))
            for path, recorded in missing.items()
        ]
        return sorted(changes, key=lambda change: change.path), touched

    def remember(self, record: Record, touched: Mapping[str, Stat]) -> Record:
        """Record anew files that were touched and have not changed."""
        if not touched:
            return record
        files = {
            path: file.model_copy(update={"stat": touched[path]}) if path in touched else file
            for path, file in record.files.items()
        }
        record = record.model_copy(update={"files": files})
        record.write(self.admin(record.branch) / "written.json")
        return record

    def require_present(self, files: Mapping[str, TreeFile]) -> None:
        """Return if every large file can be written.

        Raises:
            NotFound: one is not here.
        """
        for path, file in files.items():
            if file.pointer is not None and not self._blobs.has(file.pointer.sha256):
                raise NotFound(
                    f"{path}, {file.size} bytes, is not here",
                    kind="file",
                    hint=f"hyprstream pull {self._directory.parent.name}",
                )

    def add(self, git: Git, branch: str, commit: str, files: Mapping[str, TreeFile]) -> Worktree:
        """Write the files of a commit for a branch that has no worktree.

        Raises:
            Conflict: something is there already.
            NotFound: a large file is not here.
        """
        path, admin = self.path(branch), self.admin(branch)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise Conflict(
                f"{path} is there already",
                hint=f"hyprstream worktree remove {self._directory.parent.name} {branch}"
                if self.find(branch)
                else "move it elsewhere",
            )
        self.require_present(files)
        empty = Record(branch=branch, commit=commit, created=int(self._clock()), files={})
        with git.scratch() as scratch:
            (scratch / "files").mkdir()
            self._write_admin(scratch / "admin", path, branch)
            target = empty.moved(commit, files).files
            written = self._put(git, scratch / "files", empty, target)
            record = empty.model_copy(update={"files": written})
            self._write_index(git, record, scratch / "admin" / "index")
            record.write(scratch / "admin" / "written.json")
            link = os.path.relpath(admin, path)
            (scratch / "files" / ".git").write_text(f"gitdir: {link}\n")
            # Git's side first: without the files it counts for nothing, and the next attempt replaces it.
            shutil.rmtree(admin, ignore_errors=True)
            admin.parent.mkdir(exist_ok=True)
            (scratch / "admin").rename(admin)
            sync_directory(admin.parent)
            path.parent.mkdir(parents=True, exist_ok=True)
            (scratch / "files").rename(path)
            sync_directory(path.parent)
        return self._worktree(record)

    def remove(self, git: Git, branch: str) -> None:
        """Take a worktree away, whatever is in it."""
        path = self.path(branch)
        with git.scratch() as scratch:
            with suppress(FileNotFoundError):
                path.rename(scratch / "files")
            shutil.rmtree(self.admin(branch), ignore_errors=True)
        with suppress(OSError):
            while path.parent != self._directory:
                path = path.parent
                path.rmdir()

    def plan(self, record: Record) -> None:
        """Write down what a worktree is about to show; the branch moves after this, then comes `follow`."""
        record.write(self.admin(record.branch) / "next.json")

    def follow(self, git: Git, branch: str) -> None:
        """Bring a worktree to what was planned."""
        admin = self.admin(branch)
        planned = read_record(admin / "next.json")
        assert planned is not None, "what is followed was planned"
        written = self._put(git, self.path(branch), self.read(branch), planned.files)
        record = planned.model_copy(update={"files": written})
        with git.scratch() as scratch:
            self._write_index(git, record, scratch / "index")
            (scratch / "index").replace(admin / "index")
        record.write(admin / "written.json")
        (admin / "next.json").unlink()

    def recover(self, git: Git) -> None:
        """End what a crash interrupted."""
        branches = git.branches()
        for journal in (self._git.git_dir / "worktrees").glob("*/next.json"):
            planned = read_record(journal)
            if planned is None or self.find(planned.branch) is None:
                journal.unlink(missing_ok=True)
            elif branches.get(planned.branch) == planned.commit:
                self.follow(git, planned.branch)
                _log.warning(
                    "completed the files of %s, which a crash had interrupted", planned.branch
                )
            else:
                journal.unlink(missing_ok=True)

    @property
    def is_pending(self) -> bool:
        """Whether a crash interrupted something, or somebody is at it."""
        return any((self._git.git_dir / "worktrees").glob("*/next.json"))

    def put(
        self, git: Git, record: Record, files: Mapping[str, TreeFile], *, force: bool = False
    ) -> dict[str, RecordedFile]:
        """Write other files than the branch's into its worktree, without recording it; returns what is there now.

        A file that is neither what was written nor what shall be is the user's, and stays unless `force`.
        """
        target = record.moved(record.commit, files).files
        return self._put(git, self.path(record.branch), record, target, force=force)

    def _put(
        self,
        git: Git,
        directory: Path,
        record: Record,
        target: Mapping[str, RecordedFile],
        *,
        force: bool = False,
    ) -> dict[str, RecordedFile]:
        for path in record.files.keys() - target.keys():
            # What is gone already may have left an empty directory.
            if force or stat_at(directory / path) in (None, record.files[path].stat):
                _delete(directory, path)
        written: dict[str, RecordedFile] = {}
        wanted: dict[str, RecordedFile] = {}
        for path, file in target.items():
            found = stat_at(directory / path)
            old = record.files.get(path)
            if found is not None and found == file.stat:
                written[path] = file
            elif found is None or force or (old is not None and found == old.stat):
                wanted[path] = file
            else:
                seen = found if self._has_content(directory / path, file) else None
                written[path] = file.model_copy(update={"stat": seen})
        self._write(git, directory, wanted)
        for path, file in wanted.items():
            written[path] = file.model_copy(update={"stat": stat_at(directory / path)})
        return {path: written[path] for path in target}

    def _write(self, git: Git, directory: Path, files: Mapping[str, RecordedFile]) -> None:
        by_oid: dict[str, list[str]] = {}
        # A whole second, and past: no later change can look the same.
        when = int(time.time()) - 1
        for path, file in files.items():
            _make_way(directory, path)
            pointer = file.tree_file(path).pointer
            if pointer is not None:
                self._blobs.link(pointer, directory / path)
            elif file.size > _SMALL_BYTES:
                with git.scratch() as scratch:
                    git.write_blob(file.oid, scratch / "file")
                    _give_name(scratch / "file", directory / path, when)
            else:
                by_oid.setdefault(file.oid, []).append(path)
        sizes = {oid: files[paths[0]].size for oid, paths in by_oid.items()}
        with git.scratch() as scratch:
            for oid, content in read_blobs(git, sizes):
                for path in by_oid[oid]:
                    with (scratch / "file").open("xb") as file:
                        file.write(content)
                        file.flush()
                        os.fsync(file.fileno())
                    _give_name(scratch / "file", directory / path, when)

    def _write_index(self, git: Git, record: Record, index: Path) -> None:
        env = {"GIT_INDEX_FILE": str(index), "GIT_WORK_TREE": str(index.parent)}
        git.run("read-tree", record.commit, env=env)
        large = [path for path, file in record.files.items() if file.sha256]
        if large:
            # Git has the pointer, the disk has the file: to compare them is our business and not git's.
            stdin = "".join(f"{path}\0" for path in large).encode()
            git.run("update-index", "-z", "--skip-worktree", "--stdin", stdin=stdin, env=env)

    def _write_admin(self, admin: Path, path: Path, branch: str) -> None:
        admin.mkdir()
        (admin / "HEAD").write_text(f"ref: refs/heads/{branch}\n")
        (admin / "commondir").write_text("../..\n")
        (admin / "gitdir").write_text(f"{path / '.git'}\n")

    def _has_content(self, path: Path, file: RecordedFile) -> bool:
        """Whether what is there is this file. Reads it unless its size or its blocks tell."""
        if path.is_symlink():
            return file.sha256 is not None and self._blobs.shares(file.sha256, path)
        if not path.is_file() or path.stat().st_size != file.size:
            return False
        if file.sha256 is not None:
            return self._blobs.shares(file.sha256, path) or sha256_of(path) == file.sha256
        return _blob_id(path) == file.oid

    def _worktree(self, record: Record) -> Worktree:
        return Worktree(record.branch, str(self.path(record.branch)), record.commit, record.created)


def _blob_id(path: Path) -> str:
    """Git's id of a file's content."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _give_name(file: Path, target: Path, when: int) -> None:
    file.chmod(0o644)
    os.utime(file, (when, when))
    file.replace(target)


def _make_way(directory: Path, path: str) -> None:
    """See that a file can be renamed to its place.

    Raises:
        Conflict: something is there that is not ours to delete.
    """
    parent = directory
    for name in path.split("/")[:-1]:
        parent /= name
        if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
            raise _in_the_way(parent)
        parent.mkdir(exist_ok=True)
    if (directory / path).is_dir() and not (directory / path).is_symlink():
        raise _in_the_way(directory / path)


def _in_the_way(path: Path) -> Conflict:
    return Conflict(f"{path} is in the way", hint="move it elsewhere, then try again")


def _delete(directory: Path, path: str) -> None:
    target = directory / path
    with suppress(OSError):  # it is gone, or a directory of the user's
        target.unlink()
    with suppress(OSError):
        while target.parent != directory:
            target = target.parent
            target.rmdir()
