"""Which version a principal may use, however it is named. Knows the policy and names of versions; knows no files.

Rules speak of names and branches. A commit, a tag, a digest and a UUID are other names for what some branch holds: whoever may use
none of the branches that hold a version may not use it by another name either.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from hyprstream.core.errors import Conflict, Denied, NotFound, Unauthenticated
from hyprstream.core.ports import Policy
from hyprstream.core.principal import REGISTRY, Action, Principal, Resource, model_resource
from hyprstream.core.refs import ModelRef


class Named(Protocol):
    """Something that is listed under a reference."""

    @property
    def ref(self) -> ModelRef:
        """`name:branch`."""
        ...


class VersionNames(Protocol):
    """What the registry knows of names. `NotFound` where there is no such model or version."""

    def entries(self) -> Sequence[Named]:
        """Every branch of every model that has a worktree."""
        ...

    def canonical(self, ref: ModelRef) -> ModelRef:
        """The same version, with the model's name in place of its UUID."""
        ...

    def branches_of(self, ref: ModelRef) -> tuple[ModelRef, ...]:
        """The branches that hold the version; a branch is among its own."""
        ...


class Versions:
    """Asks the policy about versions. What a principal may not query does not exist for it."""

    def __init__(self, policy: Policy, names: VersionNames) -> None:
        self._policy = policy
        self._names = names

    def require(self, principal: Principal, action: Action, ref: ModelRef) -> ModelRef:
        """The reference by the model's name, for a principal who may do `action` to the version it names.

        Raises:
            Unauthenticated: a credential would help.
            Denied: the principal may see it, and may not do this.
            NotFound: there is none that this principal may see.
        """
        self._ask(principal, action, model_resource(ref), ref)
        return self._settled(principal, action, ref)

    async def admit(self, principal: Principal, action: Action, ref: ModelRef) -> ModelRef:
        """As `require`, reading the registry in another thread."""
        self._ask(principal, action, model_resource(ref), ref)
        return await asyncio.to_thread(self._settled, principal, action, ref)

    def require_new(self, principal: Principal, action: Action, ref: ModelRef) -> ModelRef:
        """As `require`, of a version that need not exist yet in a model that does."""
        self._ask(principal, action, model_resource(ref), ref)
        name = self._canonical_name(principal, ref.name)
        canonical = ModelRef(name, ref.ref)
        if canonical != ref:
            self._ask(principal, action, model_resource(canonical), ref)
        return canonical

    def require_model(self, principal: Principal, action: Action, name: str) -> str:
        """The name of the model that `name` or a UUID names, for a principal who may do `action` to all of it."""
        self._ask(principal, action, Resource("model", name), name)
        canonical = self._canonical_name(principal, name)
        if canonical != name:
            self._ask(principal, action, Resource("model", canonical), name)
        return canonical

    def sees(self, principal: Principal, ref: ModelRef) -> bool:
        """Whether this principal may know that the branch exists."""
        return self._policy.allows(principal, Action.QUERY, model_resource(ref))

    def _settled(self, principal: Principal, action: Action, ref: ModelRef) -> ModelRef:
        try:
            canonical = self._names.canonical(ref)
            branches = self._names.branches_of(canonical)
        except (NotFound, Conflict) as error:
            raise self._as_seen(principal, error, ref) from None
        if canonical != ref:
            self._ask(principal, action, model_resource(canonical), ref)
        if canonical not in branches:
            self._require_one_of(principal, action, ref, canonical.name, branches)
        return canonical

    def _require_one_of(
        self,
        principal: Principal,
        action: Action,
        ref: ModelRef,
        name: str,
        branches: Sequence[ModelRef],
    ) -> None:
        if not branches:
            # Fetched and not taken over, or left behind: no rule on a branch speaks of it, so it is for those who make them.
            return self._ask(principal, Action.WRITE, Resource("model", name), ref)
        held_by = [model_resource(branch) for branch in branches]
        if any(self._policy.allows(principal, action, resource) for resource in held_by):
            return
        visible = (r for r in held_by if self._policy.allows(principal, Action.QUERY, r))
        self._ask(principal, action, next(visible, held_by[0]), ref)

    def _ask(
        self, principal: Principal, action: Action, resource: Resource, written: object
    ) -> None:
        try:
            self._policy.require(principal, action, resource)
        except (Denied, Unauthenticated):
            is_seen = action is not Action.QUERY and self._policy.allows(
                principal, Action.QUERY, resource
            )
            # Whoever shows no key and may not list the models is to show one. Whoever may list them must not learn of those
            # that are not listed.
            is_asked = principal.is_anonymous and not self._may_list(principal)
            if is_seen or is_asked:
                raise
            raise _not_found(written) from None

    def _canonical_name(self, principal: Principal, name: str) -> str:
        try:
            return self._names.canonical(ModelRef(name)).name
        except NotFound as error:
            raise self._as_seen(principal, error, name) from None

    def _as_seen(
        self, principal: Principal, error: NotFound | Conflict, written: object
    ) -> NotFound | Conflict:
        # The registry's words name what is near, branches without files among it: they are for those who keep the models.
        # To everybody else what is absent looks like what is hidden.
        is_keeper = self._policy.allows(principal, Action.WRITE, REGISTRY)
        sees_all = is_keeper and all(
            self.sees(principal, entry.ref) for entry in self._names.entries()
        )
        return error if sees_all else _not_found(written)

    def _may_list(self, principal: Principal) -> bool:
        return self._policy.allows(principal, Action.QUERY, REGISTRY)


def _not_found(written: object) -> NotFound:
    return NotFound(f"there is no model {written}", hint="hyprstream list names those you may see")
