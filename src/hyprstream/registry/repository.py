"""One model as a Git repository: branches, files, commits, merges. Knows no registry of models and no GGUF.

<model>/repo.git                 a bare repository; large files in its trees are Git LFS pointers
<model>/worktrees/<branch>/      files of a branch; large ones are links into the blob store

In which order a change happens, and why a crash does no harm, is in `steps.py`.
"""

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from hyprstream.core.errors import Conflict, NotFound, TooLarge
from hyprstream.core.versions import (
    FileChange,
    MergeOutcome,
    Pointer,
    Status,
    TextVersion,
    TreeFile,
    Worktree,
)
from hyprstream.registry.blobs import BlobStore
from hyprstream.registry.commits import read_log, write_commit, write_tree
from hyprstream.registry.git import NO_COMMIT, Git
from hyprstream.registry.intake import LARGE_BYTES, take_in
from hyprstream.registry.merge import Merges, Merging, Side, is_ancestor, merge_trees
from hyprstream.registry.names import Names, check_name
from hyprstream.registry.remotes import Event, Remotes, Token
from hyprstream.registry.steps import Steps
from hyprstream.registry.trees import check_path, differences, read_tree
from hyprstream.registry.worktrees import Worktrees

__all__ = ["LARGE_BYTES", "Event", "ModelRepository"]

FastForward = Literal["auto", "only", "never"]

MAX_READ_BYTES = 8 << 20


class ModelRepository:
    """Any number of processes may read; one at a time changes something, and others wait for it.

    Every method may raise what `Git` raises; every one that changes something Conflict if another process is at it for long.
    """

    def __init__(
        self,
        directory: Path,
        blobs: BlobStore,
        *,
        token: Token = lambda host: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Args: directory: `<models>/<name>`; token: gives the token for a host, where https needs one."""
        self.directory = directory.absolute()
        self.blobs = blobs
        self._git = Git(self.directory / "repo.git")
        self._worktrees = Worktrees(self.directory / "worktrees", self._git, blobs, clock=clock)
        self._merges = Merges(self._worktrees)
        self._names = Names(self._git, model=self.directory.name)
        self._steps = Steps(self._git, blobs, self._worktrees, self._merges, self._names)
        self._remotes = Remotes(self._git, blobs, name=self.directory.name, token=token)

    @classmethod
    def create(
        cls,
        directory: Path,
        blobs: BlobStore,
        *,
        token: Token = lambda host: None,
        clock: Callable[[], float] = time.time,
    ) -> "ModelRepository":
        """Make an empty repository; one that is there already is left as it is."""
        repository = cls(directory, blobs, token=token, clock=clock)
        Git.init(repository.git.git_dir)
        # For whoever runs git in a worktree: contents are bytes, whatever a `.gitattributes` says.
        info = repository.git.git_dir / "info"
        info.mkdir(exist_ok=True)
        (info / "attributes").write_text("* -text -ident -filter -working-tree-encoding\n")
        for key, value in (("core.fileMode", "false"), ("core.symlinks", "false")):
            repository.git.run("config", key, value)
        return repository

    @property
    def git(self) -> Git:
        """The repository behind it."""
        return self._git

    def recover(self) -> bool:
        """End what a crash interrupted, if there is anything; whether there was."""
        if not (self._worktrees.is_pending or self._merges.is_pending(self._git)):
            return False
        with self._steps.changing():
            return True

    # -- versions ------------------------------------------------------------------------------------------------------

    def branches(self) -> dict[str, str]:
        """Commit ids by branch; starts no process."""
        return self._git.branches()

    def tags(self) -> dict[str, str]:
        """Commit ids by tag."""
        return self._git.tags()

    def resolve(self, version: str) -> str:
        """The commit that a branch, a tag, a remote's branch (`origin/main`), or the beginning of a commit's id names.

        Raises:
            NotFound: nothing is called so; the hint says what is near. No other version ever stands in.
            Conflict: it means several.
        """
        return self._names.resolve(version)

    def files(self, commit: str) -> dict[str, TreeFile]:
        """The files of a commit by path, with their real sizes.

        Raises:
            Invalid: it holds what no model may: a symbolic link, a submodule, a path that leads elsewhere.
        """
        return read_tree(self._git, commit)

    def read(self, commit: str, path: str, limit: int = MAX_READ_BYTES) -> bytes:
        """The content of one file of a commit.

        Raises:
            NotFound: it has none of this name, or that is a large one and not here.
            TooLarge: it has more than `limit` bytes.
        """
        check_path(path)
        file = self.files(commit).get(path)
        if file is None:
            raise NotFound(f"{commit[:12]} has no file {path!r}", kind="file")
        if file.size > limit:
            raise TooLarge(f"{path} has {file.size} bytes, at most {limit} are read")
        if file.pointer is not None:
            return self.blobs.path(file.pointer.sha256).read_bytes()
        return self._git.run("cat-file", "blob", file.oid, max_bytes=limit)

    def log(self, version: str, limit: int = 10) -> list[TextVersion]:
        """A version and those it is made of, newest first."""
        return read_log(self._git, self.resolve(version), limit)

    def diff(self, a: str, b: str) -> list[FileChange]:
        """The files in which two versions differ."""
        return differences(self.files(self.resolve(a)), self.files(self.resolve(b)))

    def create_branch(self, name: str, start: str) -> None:
        """Begin a branch at a version.

        Raises:
            Invalid: no branch can be called so.
            Conflict: the name is taken.
        """
        self._names.require_free(name)
        commit = self.resolve(start)
        with self._steps.changing() as git:
            git.run("update-ref", f"refs/heads/{name}", commit, NO_COMMIT)

    def delete_branch(self, name: str, force: bool = False) -> None:
        """Take a branch away.

        Raises:
            NotFound: there is none.
            Conflict: it has a worktree; or, without `force`, its commits are in no other version, or it is the default.
        """
        with self._steps.changing() as git:
            if self._worktrees.find(name) is not None:
                raise Conflict(
                    f"the branch {name} has a worktree",
                    hint=f"hyprstream worktree remove {self.directory.name} {name}",
                )
            self._names.delete_branch(git, name, force=force)

    def create_tag(self, name: str, start: str, message: str | None = None) -> None:
        """Give a version a name that does not move; with a message it has an author and a date of its own.

        Raises:
            Invalid: no tag can be called so.
            Conflict: the name is taken.
        """
        self._names.require_free(name)
        commit = self.resolve(start)
        with self._steps.changing() as git:
            self._names.create_tag(git, name, commit, message)

    def delete_tag(self, name: str) -> None:
        """Take a tag away; the commit stays.

        Raises:
            NotFound: there is none.
        """
        with self._steps.changing() as git:
            self._names.delete_tag(git, name)

    # -- changes -------------------------------------------------------------------------------------------------------

    def commit_files(
        self,
        branch: str,
        changes: Mapping[str, Path | bytes | Pointer | None],
        message: str,
        *,
        parent: str | None,
        author: str | None = None,
    ) -> str:
        """Make a version without a worktree; None deletes a file. The branch moves only if it is still at `parent`.

        With `parent` None it is the first version of a new branch. A worktree of the branch stays as it is.

        Raises:
            Conflict: the branch is elsewhere.
        """
        check_name(branch)
        contents = {path: content for path, content in changes.items() if content is not None}
        deleted = {path: None for path, content in changes.items() if content is None}
        for path in deleted:
            check_path(path)
        with self._steps.changing() as git:
            if git.branches().get(branch) != parent:
                raise Conflict(
                    f"{self.directory.name}:{branch} is not at {parent[:12] if parent else 'its beginning'} any more",
                    hint="look at what changed, then try again",
                )
            stored = take_in(git, self.blobs, contents)
            oids = {path: file.oid for path, file in stored.items()}
            tree = write_tree(git, parent, {**oids, **deleted})
            commit = write_commit(git, tree, (parent,) if parent else (), message, author)
            git.run("update-ref", f"refs/heads/{branch}", commit, parent or NO_COMMIT)
            return commit

    def commit(
        self, branch: str, message: str, *, author: str | None = None, allow_empty: bool = False
    ) -> str:
        """Make what is in the worktree the branch's next version; returns its id.

        Raises:
            NotFound: the branch has no worktree.
            Conflict: nothing changed, the branch moved since, or a merge waits.
            Invalid: there is something no version can hold.
        """
        with self._steps.changing() as git:
            if self._merges.find(git, branch) is not None:
                raise Conflict(
                    f"a merge waits in {branch}",
                    hint=f"hyprstream merge {self.directory.name}:{branch} --continue, or --abort",
                )
            record = self._steps.require_current(git, branch)
            changes, touched = self._worktrees.changes(record)
            record = self._worktrees.remember(record, touched)
            if not changes and not allow_empty:
                raise Conflict(
                    f"nothing changed in {branch}", hint="--allow-empty commits it anyway"
                )
            return self._steps.commit(git, record, changes, message, author=author)

    # -- worktrees -----------------------------------------------------------------------------------------------------

    def worktrees(self) -> list[Worktree]:
        """All worktrees by branch; starts no process."""
        return self._worktrees.all()

    def worktree(self, branch: str) -> Worktree:
        """The worktree of a branch.

        Raises:
            NotFound: it has none.
        """
        return self._worktrees.get(branch)

    def worktree_path(self, branch: str) -> Path:
        """Where the files of a branch are, or would be."""
        return self._worktrees.path(branch)

    def worktree_files(self, branch: str) -> dict[str, TreeFile]:
        """The files of the version a worktree shows; starts no process."""
        record = self._worktrees.read(branch)
        return {path: file.tree_file(path) for path, file in record.files.items()}

    def add_worktree(self, branch: str) -> Worktree:
        """Put the files of a branch on disk.

        Raises:
            NotFound: no such branch, or one of its large files is not here.
            Conflict: something is in the way.
            Invalid: the branch holds what no model may; nothing is written.
        """
        with self._steps.changing() as git:
            commit = self._names.head(git, branch)
            return self._worktrees.add(git, branch, commit, read_tree(git, commit))

    def remove_worktree(self, branch: str, *, force: bool = False) -> None:
        """Take the files of a branch off the disk.

        Raises:
            NotFound: they are not there.
            Conflict: something is not committed, and `force` is not set.
        """
        with self._git.exclusive() if force else self._steps.changing() as git:
            if not force:
                record = self._worktrees.read(branch)
                self._steps.require_clean(git, record)
            elif not self._worktrees.path(branch).exists():
                self._worktrees.read(branch)
            self._worktrees.remove(git, branch)

    def refresh_worktree(self, branch: str) -> None:
        """Bring a worktree to where its branch is now.

        Raises:
            Conflict: something there is not committed.
        """
        with self._steps.changing() as git:
            record = self._worktrees.read(branch)
            head = self._names.head(git, branch)
            if record.commit != head:
                self._steps.require_clean(git, record)
                self._steps.move(git, branch, head, head)

    def is_dirty(self, branch: str) -> bool:
        """Whether a worktree has changes. Asks sizes and times alone, so a file that was only touched counts."""
        return self._worktrees.is_dirty(branch)

    def status(self, branch: str) -> Status:
        """A worktree against its branch, and the branch against the remote's.

        Raises:
            NotFound: no such branch. A branch without a worktree has no changes.
        """
        self.recover()
        head = self._names.head(self._git, branch)
        status = Status(branch, head)
        record = self._worktrees.find(branch)
        if record is not None:
            changes, touched = self._worktrees.changes(record)
            if touched:
                self._steps.remember(record, touched)
            merging = self._merges.find(self._git, branch)
            status = replace(
                status,
                changes=tuple(changes),
                merging=merging.source if merging else None,
                conflicts=tuple(self._merges.unresolved(merging)) if merging else (),
            )
        upstream = self._remotes.upstream(branch)
        ref = self._git.refs("refs/remotes/").get(f"refs/remotes/{upstream}")
        if ref is None:
            return replace(status, upstream=upstream)
        output = self._git.run("rev-list", "--left-right", "--count", f"{head}...{ref.oid}", "--")
        n_ahead, n_behind = (int(count) for count in output.split())
        return replace(status, upstream=upstream, n_ahead=n_ahead, n_behind=n_behind)

    # -- merges --------------------------------------------------------------------------------------------------------

    def merge(
        self, branch: str, source: str, *, message: str | None = None, ff: FastForward = "auto"
    ) -> MergeOutcome:
        """Bring another version's changes into a branch; its worktree follows. Conflicts wait in the worktree.

        Raises:
            Conflict: the worktree has changes, `ff="only"` is not possible, or there are conflicts and no worktree to settle them.
        """
        theirs = self.resolve(source)
        with self._steps.changing() as git:
            ours = self._names.head(git, branch)
            record = self._worktrees.find(branch)
            if record is not None:
                record = self._steps.require_clean(git, self._steps.require_current(git, branch))
            if is_ancestor(git, theirs, ours):
                return MergeOutcome(ours)
            if ff != "never" and is_ancestor(git, ours, theirs):
                self._steps.move(git, branch, ours, theirs)
                return MergeOutcome(theirs, is_fast_forward=True)
            if ff == "only":
                raise Conflict(
                    f"{branch} has commits that {source} has not", hint="merge without --ff-only"
                )
            text = message or f"Merge {source} into {branch}"
            tree, conflicts = merge_trees(git, ours, theirs)
            if not conflicts:
                commit = write_commit(git, tree, (ours, theirs), text)
                self._steps.move(git, branch, ours, commit)
                return MergeOutcome(commit)
            if record is None:
                raise Conflict(
                    f"both changed {', '.join(conflicts)}, and {branch} has no worktree to settle it in",
                    hint=f"hyprstream worktree add {self.directory.name} {branch}, then merge again",
                )
            merging = Merging(
                branch=branch,
                source=source,
                ours=ours,
                theirs=theirs,
                tree=tree,
                message=text,
                conflicts=conflicts,
            )
            self._merges.begin(git, record, merging)
            return MergeOutcome(None, conflicts=conflicts)

    def merge_abort(self, branch: str) -> None:
        """Give up a merge whose conflicts wait; files the merge did not bring stay.

        Raises:
            Conflict: none waits.
        """
        with self._steps.changing() as git:
            self._merges.abort(git, self._merges.read(git, branch))

    def merge_continue(
        self, branch: str, message: str | None = None, *, take: Side | None = None
    ) -> str:
        """Commit a merge; returns the commit's id. `take` settles every open conflict by one side's whole file.

        Raises:
            Conflict: no merge waits, or a conflict is open; the message names the files.
        """
        with self._steps.changing() as git:
            merging = self._merges.read(git, branch)
            unresolved = self._merges.unresolved(merging)
            if unresolved and take is None:
                raise Conflict(
                    f"not settled: {', '.join(unresolved)}",
                    hint="replace the files, or take one side of all with --take ours or --take theirs",
                )
            if unresolved and take is not None:
                self._merges.take(git, merging, unresolved, take)
            record = self._steps.require_current(git, branch)
            changes, _ = self._worktrees.changes(record)
            text = message or merging.message
            commit = self._steps.commit(git, record, changes, text, also=(merging.theirs,))
            self._merges.forget(branch)
            return commit

    # -- remotes -------------------------------------------------------------------------------------------------------

    def remotes(self) -> dict[str, str]:
        """Addresses of remotes by name."""
        return self._remotes.all()

    def add_remote(self, name: str, url: str) -> None:
        """Give a place this model can be fetched from a name.

        Raises:
            Invalid: the name or the address cannot be used; addresses hold no passwords.
            Conflict: the name is taken.
        """
        with self._steps.changing() as git:
            self._remotes.add(git, name, url)

    def set_remote_url(self, name: str, url: str) -> None:
        """Change where a remote is."""
        with self._steps.changing() as git:
            self._remotes.set_url(git, name, url)

    def rename_remote(self, old: str, new: str) -> None:
        """Change what a remote is called."""
        with self._steps.changing() as git:
            self._remotes.rename(git, old, new)

    def remove_remote(self, name: str) -> None:
        """Forget a remote, and what was fetched from it."""
        with self._steps.changing() as git:
            self._remotes.remove(git, name)

    def set_upstream(self, branch: str, remote: str) -> None:
        """Let a branch follow the one of the same name there."""
        with self._steps.changing() as git:
            self._remotes.set_upstream(git, branch, remote)

    def fetch(
        self,
        remote: str,
        branch: str | None = None,
        *,
        depth: int | None = None,
        large_files: bool = True,
    ) -> Generator[Event]:
        """Bring what a remote has, one branch or all, to `origin/…`; no branch of ours moves.

        Raises:
            NotFound: no such remote, or it has no such branch.
            SourceError: it cannot be reached, or refuses.
            Invalid: what it has holds what no model may.
        """
        if branch is not None:
            check_name(branch)
        yield from self._remotes.fetch(remote, branch, depth=depth, large_files=large_files)

    def download(self, remote: str, commit: str) -> Generator[Event]:
        """Bring the large files of a fetched commit that are not here."""
        yield from self._remotes.download(remote, commit)

    def push(
        self, remote: str, branch: str, *, force: bool = False, set_upstream: bool = False
    ) -> Generator[Event]:
        """Send a branch to a remote, large files first. `force` replaces what was last seen there, and nothing newer.

        Raises:
            Conflict: the remote's branch has moved, or the remote refuses.
            SourceError: it cannot be reached.
        """
        commit = self._names.head(self._git, branch)
        yield from self._remotes.push(
            remote, branch, commit, force=force, set_upstream=set_upstream
        )
