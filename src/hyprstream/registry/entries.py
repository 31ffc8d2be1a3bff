"""What the registry says of itself and of its models. Values only; knows no file and no repository."""

from dataclasses import dataclass
from enum import StrEnum

from hyprstream.core.refs import ModelRef
from hyprstream.registry.blobs import LinkKind


@dataclass(frozen=True, slots=True)
class Entry:
    """One branch of one model that has a worktree, whether it can be served or not. Sizes are in bytes."""

    ref: ModelRef
    id: str
    """The model's UUID."""
    commit: str
    is_dirty: bool
    """Whether the worktree has changes that are not committed."""
    size_bytes: int
    """Of all files of the version, as they are when read."""
    shared_bytes: int
    """What of it other branches or models hold too, at no further cost."""
    created: int
    """When the worktree was made, in seconds since the epoch."""
    driver: LinkKind
    """How large files came into the worktree."""
    worktree: str
    """Absolute path."""
    has_weights: bool
    """Whether it can be served."""
    source: str
    """Where the model came from, as the user wrote it."""
    problem: str | None = None
    """Why it cannot be served, if it cannot."""


@dataclass(frozen=True, slots=True)
class RemovalPlan:
    """What a removal would take away. Sizes are in bytes.

    Nothing of it leaves the disk before the next `gc`: until then `undo` brings it back.
    """

    what: str
    """`smollm2`, `qwen3:lora/medical`, ..."""
    name: str
    branch: str | None
    """None where the whole model goes."""
    worktrees: tuple[str, ...]
    """Branches whose files leave their places."""
    dirty: tuple[str, ...]
    """Those of them with changes that are committed nowhere."""
    size_bytes: int
    """What the next `gc` frees."""
    shared_bytes: int
    """Large files that stay, as other versions need them."""
    is_whole_model: bool


@dataclass(frozen=True, slots=True)
class GcReport:
    """What a collection freed, or would free. Sizes are in bytes."""

    is_dry_run: bool
    n_blobs: int
    """Large files that no version needs."""
    n_removed_models: int
    """Removed models that can no longer be brought back."""
    n_transfers: int
    """Left-overs of transfers that are complete."""
    freed_bytes: int
    kept_bytes: int
    """Large files that stay."""


class Soundness(StrEnum):
    """What a verification found."""

    SOUND = "sound"
    REPAIRED = "repaired"
    """It was broken or missing, and was fetched again."""
    BROKEN = "broken"
    """It is quarantined, and nobody could be asked for another."""
    MISSING = "missing"
    """It was never fetched, or is gone."""


@dataclass(frozen=True, slots=True)
class VerifyEvent:
    """One large file was read to its last byte."""

    model: str
    file: str
    sha256: str
    size_bytes: int
    soundness: Soundness
    message: str = ""
    """Why it could not be repaired."""


@dataclass(frozen=True, slots=True)
class DedupReport:
    """What sharing saves. Sizes are in bytes."""

    n_models: int
    n_worktrees: int
    logical_bytes: int
    """What the worktrees' files add up to, each counted in full."""
    stored_bytes: int
    """What they take on disk."""
    n_blobs: int
    drivers: dict[str, int]
    """How many large files came into worktrees in which way."""

    @property
    def saved_bytes(self) -> int:
        """What would be needed besides if nothing were shared."""
        return max(0, self.logical_bytes - self.stored_bytes)
