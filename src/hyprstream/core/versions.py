"""What is known of versions: of texts, of models, of their differences. Values only; git exists in `registry` alone."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class TextVersion:
    """One commit, of a text or of a model."""

    id: str
    """Commit id, 40 hexadecimal digits."""
    message: str
    author: str
    """`Name <address>`."""
    created: int
    """Seconds since the epoch."""
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pointer:
    """What stands for a large file in a tree: the SHA-256 and the size of its content."""

    sha256: str
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One file of one version."""

    path: str
    """Relative, with `/`."""
    oid: str
    """Git's id of what the tree holds."""
    size: int
    """Bytes of the content; of a large file its real content, not its pointer."""
    pointer: Pointer | None = None
    """Set for a large file."""


class ChangeKind(StrEnum):
    """What happened to a file."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file in which two versions, or a version and its worktree, differ."""

    path: str
    kind: ChangeKind
    old: TreeFile | None = None
    new: TreeFile | None = None
    """None too where the new content is in a worktree and has not been read."""


@dataclass(frozen=True, slots=True)
class Worktree:
    """The files of one branch on disk."""

    branch: str
    path: str
    commit: str
    """What was last written there."""
    created: int
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Status:
    """A worktree against its branch, and the branch against its remote."""

    branch: str
    commit: str
    changes: tuple[FileChange, ...] = ()
    upstream: str | None = None
    """`origin/main`, if the branch follows one."""
    n_ahead: int = 0
    n_behind: int = 0
    merging: str | None = None
    """What is being merged, while conflicts wait."""
    conflicts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MergeOutcome:
    """How a merge ended."""

    commit: str | None
    """The branch's new commit; None while conflicts wait."""
    is_fast_forward: bool = False
    conflicts: tuple[str, ...] = ()
    """Paths both sides changed."""
