"""Which models there are. Knows the registry and the pool; knows no HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hyprstream.core.models import StoredModel
from hyprstream.core.ports import Policy
from hyprstream.core.principal import REGISTRY, Action, Principal
from hyprstream.core.refs import ModelRef
from hyprstream.services.pool import EnginePool
from hyprstream.services.versions import Named, VersionNames, Versions


class Stored(Named, Protocol):
    """How the files of one branch lie on disk."""

    @property
    def driver(self) -> str:
        """How large files come into the worktree: `reflink`, `hardlink`, `copy`, ..."""
        ...

    @property
    def shared_bytes(self) -> int:
        """Bytes of it that other branches or models hold too, at no further cost."""
        ...

    @property
    def created(self) -> int:
        """When the worktree was made, in seconds since the epoch."""
        ...


class ModelStore(VersionNames, Protocol):
    """Where models are kept."""

    def list(self) -> list[StoredModel]:
        """Every model that can be served, by name."""
        ...

    def entries(self) -> Sequence[Stored]:
        """Every branch that has a worktree."""
        ...

    def resolve(self, ref: ModelRef) -> StoredModel:
        """The model a reference names, or NotFound with the names that are near."""
        ...


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A stored model, whether it is in memory, and how it lies on disk."""

    model: StoredModel
    is_loaded: bool
    n_ctx: int | None
    """Context window it is being served with; None while it is not loaded."""
    stored: Stored | None = None
    """None for what has no worktree: a file beside the registry, a tag, a commit."""


class ModelService:
    """Lists and describes models."""

    def __init__(self, policy: Policy, store: ModelStore, pool: EnginePool) -> None:
        self._policy = policy
        self._store = store
        self._pool = pool
        self._versions = Versions(policy, store)

    def list(self, principal: Principal) -> list[ModelCard]:
        """Every model this principal may see."""
        self._policy.require(principal, Action.QUERY, REGISTRY)
        stored = {entry.ref: entry for entry in self._store.entries()}
        return [
            self._card(model, stored.get(model.ref))
            for model in self._store.list()
            if self._versions.sees(principal, model.ref)
        ]

    def get(self, principal: Principal, ref: ModelRef) -> ModelCard:
        """One model.

        Raises:
            NotFound: there is none that this principal may see.
        """
        ref = self._versions.require(principal, Action.QUERY, ref)
        model = self._store.resolve(ref)
        stored = next((entry for entry in self._store.entries() if entry.ref == model.ref), None)
        return self._card(model, stored)

    def _card(self, model: StoredModel, stored: Stored | None) -> ModelCard:
        engine = self._pool.peek(model.ref)
        n_ctx = engine.info.n_ctx if engine else None
        return ModelCard(model, engine is not None, n_ctx, stored)
