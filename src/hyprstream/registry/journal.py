"""Changes of the registry that touch several places, whole or not at all. Knows the order of steps; knows no reason for them.

A change is written down before its first step and forgotten after its last one. Every step can be done twice and taken back: a
step that fails takes back those before it, and whoever opens the registry after a crash goes on where it stopped.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from hyprstream.core.errors import Conflict, Corrupt, HyprstreamError
from hyprstream.core.files import sync_directory, write_durably
from hyprstream.registry.checkouts import is_checked_out
from hyprstream.registry.git import NO_COMMIT
from hyprstream.registry.repository import ModelRepository
from hyprstream.registry.state import CommitId, Record, State

HELD = "refs/hyprstream/removed/"
"""Where the commits of removed branches stay until they are collected, under their own ids."""

_log = logging.getLogger(__name__)


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class Move(_Value):
    """A directory that changes its place; both paths are relative to the directory of models."""

    source: str
    target: str

    @property
    def reverse(self) -> "Move":
        """The way back."""
        return Move(source=self.target, target=self.source)


class BranchMove(_Value):
    """A branch that moves, comes or goes, and its worktree with it."""

    model: str
    branch: str
    old: CommitId | None
    new: CommitId | None

    @property
    def reverse(self) -> "BranchMove":
        """The way back."""
        return BranchMove(model=self.model, branch=self.branch, old=self.new, new=self.old)


class Change(_Value):
    """Everything one change does, in the order it does it."""

    message: str
    """What the history of the registry says of it."""
    before: dict[str, Record | None]
    after: dict[str, Record | None]
    moves: tuple[Move, ...] = ()
    branches: tuple[BranchMove, ...] = ()


class Journal:
    """Makes changes, one at a time."""

    def __init__(
        self, models_dir: Path, state: State, repository: Callable[[str], ModelRepository]
    ) -> None:
        self._models_dir = models_dir
        self._path = state.directory / "journal.json"
        self._state = state
        self._repository = repository

    @property
    def is_pending(self) -> bool:
        """Whether a change was begun and not ended, here or by somebody who is at it."""
        return self._path.exists()

    def make(self, change: Change) -> None:
        """Do all of a change, or nothing of it. The caller holds the registry's lock.

        Raises:
            HyprstreamError, OSError: what the failing step raised; everything is as it was.
        """
        assert not self._path.exists(), "a change begins after the one before it has ended"
        write_durably(self._path, change.model_dump_json(indent=2).encode())
        try:
            self._apply(change)
        except BaseException:
            self._revert(change)
            self._forget()
            raise
        self._forget()

    def recover(self) -> None:
        """End a change that a crash has interrupted. The caller holds the registry's lock.

        Raises:
            Corrupt: it can be neither ended nor taken back.
        """
        try:
            change = Change.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return
        except ValidationError as error:
            raise Corrupt(
                f"{self._path} is damaged", hint="see what it says, then delete it"
            ) from error
        try:
            self._apply(change)
            _log.warning("completed what a crash had interrupted: %s", change.message)
        except (HyprstreamError, OSError) as error:
            _log.warning("taking back what a crash had interrupted: %s: %s", change.message, error)
            self._revert(change)
        self._forget()

    def _apply(self, change: Change) -> None:
        # Who reads meanwhile without a lock must not meet a record without its directory.
        self._state.write({name: None for name, new in change.after.items() if new is None})
        for move in change.moves:
            self._move(move)
        for branch in change.branches:
            self._put(branch)
        self._state.write(change.after)
        self._state.commit(change.after, change.message)

    def _revert(self, change: Change) -> None:
        self._state.write({name: None for name, old in change.before.items() if old is None})
        for branch in reversed(change.branches):
            self._put(branch.reverse)
        for move in reversed(change.moves):
            self._move(move.reverse)
        self._state.write(change.before)
        self._state.commit(change.before, f"taken back: {change.message}")

    def _move(self, move: Move) -> None:
        source, target = self._models_dir / move.source, self._models_dir / move.target
        if not source.exists():
            if not target.exists():
                raise Corrupt(f"neither {source} nor {target} is there")
            return
        if target.exists():
            raise Conflict(f"{target} is in the way", hint="move it elsewhere")
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        sync_directory(target.parent)
        sync_directory(source.parent)

    def _put(self, move: BranchMove) -> None:
        repository = self._repository(move.model)
        now = repository.branches().get(move.branch)
        if now not in (move.old, move.new):
            raise Conflict(
                f"{move.model}:{move.branch} has moved to {now[:12] if now else 'nowhere'} meanwhile",
                hint="try again",
            )
        has_worktree = is_checked_out(repository, move.branch)
        if move.new is None:
            if has_worktree:
                repository.remove_worktree(move.branch, force=True)
            if now is not None:
                with repository.git.exclusive() as git:
                    git.run("update-ref", f"{HELD}{now}", now)
                repository.delete_branch(move.branch, force=True)
            return
        if now != move.new:
            with repository.git.exclusive() as git:
                git.run("update-ref", f"refs/heads/{move.branch}", move.new, now or NO_COMMIT)
        if not has_worktree:
            repository.add_worktree(move.branch)
        elif repository.worktree(move.branch).commit != move.new:
            repository.refresh_worktree(move.branch)

    def _forget(self) -> None:
        with suppress(FileNotFoundError):
            self._path.unlink()
        sync_directory(self._path.parent)
