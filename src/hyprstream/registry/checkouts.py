"""Whether the files of a branch are on disk, since when, and whether somebody works on them. Knows one repository at a time."""

from hyprstream.core.refs import is_version
from hyprstream.registry.repository import ModelRepository


def made(repository: ModelRepository, branch: str) -> int | None:
    """When a branch's worktree was made, in seconds since the epoch; None if it has none. Looks, and reads nothing."""
    if not is_version(branch):
        return None
    try:  # nobody writes to this file after that
        return int((repository.worktree_path(branch) / ".git").stat().st_mtime)
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_checked_out(repository: ModelRepository, branch: str) -> bool:
    """Whether a branch has a worktree."""
    return made(repository, branch) is not None


def has_changes(repository: ModelRepository, branch: str) -> bool:
    """Whether a branch has a worktree that holds something that is not committed. Reads what only looks changed."""
    if not is_checked_out(repository, branch) or not repository.is_dirty(branch):
        return False
    status = repository.status(branch)
    return bool(status.changes or status.merging)
