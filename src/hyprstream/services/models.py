"""Which models there are. Knows the store and the pool; knows no HTTP."""

from dataclasses import dataclass
from typing import Protocol

from hyprstream.core.models import StoredModel
from hyprstream.core.ports import Policy
from hyprstream.core.principal import REGISTRY, Action, Principal, model_resource
from hyprstream.core.refs import ModelRef
from hyprstream.services.pool import EnginePool


class ModelStore(Protocol):
    """Where models are kept."""

    def list(self) -> list[StoredModel]:
        """Every stored model, by name."""
        ...

    def resolve(self, ref: ModelRef) -> StoredModel:
        """The model a reference names, or NotFound with the names that are near."""
        ...


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A stored model and whether it is in memory."""

    model: StoredModel
    is_loaded: bool
    n_ctx: int | None
    """Context window it is being served with; None while it is not loaded."""


class ModelService:
    """Lists and describes models."""

    def __init__(self, policy: Policy, store: ModelStore, pool: EnginePool) -> None:
        self._policy = policy
        self._store = store
        self._pool = pool

    def list(self, principal: Principal) -> list[ModelCard]:
        """Every model this principal may see."""
        self._policy.require(principal, Action.QUERY, REGISTRY)
        return [self._card(model) for model in self._store.list()]

    def get(self, principal: Principal, ref: ModelRef) -> ModelCard:
        """One model.

        Raises:
            NotFound: there is none of this name.
        """
        self._policy.require(principal, Action.QUERY, model_resource(ref))
        return self._card(self._store.resolve(ref))

    def _card(self, model: StoredModel) -> ModelCard:
        engine = self._pool.peek(model.ref)
        return ModelCard(model, engine is not None, engine.info.n_ctx if engine else None)
