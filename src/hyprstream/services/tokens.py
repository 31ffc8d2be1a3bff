"""Issuing and withdrawing tokens. Knows who may; how a token is made and checked is the store's business."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from hyprstream.core.errors import Conflict, Denied, Invalid, NotFound
from hyprstream.core.principal import Action, Principal, Resource, Scope
from hyprstream.policy.rules import KINDS

if TYPE_CHECKING:
    from hyprstream.policy.policy import CasbinPolicy
    from hyprstream.policy.tokens import IssuedToken, TokenRecord, TokenStore

EVERYBODY = "*"


@dataclass(frozen=True, slots=True)
class Issued:
    """A new token, which is shown now and never again."""

    token: str
    record: "TokenRecord"
    is_useful: bool
    """Whether the policy allows its user anything."""


class TokenService:
    """Issues, lists and withdraws the tokens of users. `EVERYBODY` as a user means all of them."""

    def __init__(self, policy: "CasbinPolicy", store: "TokenStore") -> None:
        self._policy = policy
        self._store = store

    def create(
        self,
        principal: Principal,
        user: str,
        name: str,
        expires: timedelta | None,
        scopes: Sequence[Scope] = (),
    ) -> Issued:
        """Issue a token. `expires` is counted from now, None is never; no scopes is no limit beyond the policy's.

        Raises:
            Invalid: a scope could never cover anything.
            Denied: the principal's own token is limited, and this one could be wider.
        """
        self._policy.require(principal, Action.MANAGE, Resource("token", user))
        _refuse_limited(principal)
        for scope in scopes:
            _refuse_vain(scope)
        issued = self._store.create(user, name=name, expires=expires, scopes=scopes)
        return self._issued(issued)

    def list(
        self, principal: Principal, user: str = EVERYBODY, include_revoked: bool = False
    ) -> "list[TokenRecord]":
        """The tokens of a user."""
        self._policy.require(principal, Action.QUERY, Resource("token", user))
        return self._store.list(None if user == EVERYBODY else user, include_revoked)

    def revoke(self, principal: Principal, token: str, user: str = EVERYBODY) -> "TokenRecord":
        """Withdraw a token, by its id or name.

        Raises:
            NotFound: that user has no such token.
            Conflict: several have this name.
        """
        self._policy.require(principal, Action.MANAGE, Resource("token", user))
        return self._store.revoke(self._id(token, user))

    def rotate(self, principal: Principal, token: str, user: str = EVERYBODY) -> Issued:
        """Replace a token by a new one of the same name, user, scopes and lifetime.

        Raises:
            NotFound, Conflict: as for `revoke`.
            Denied: the principal's own token is limited, and this one could be wider.
        """
        self._policy.require(principal, Action.MANAGE, Resource("token", user))
        _refuse_limited(principal)
        return self._issued(self._store.rotate(self._id(token, user)))

    def rotate_keys(self, principal: Principal) -> str:
        """Sign new tokens with a new key, and return its id. Tokens that are out stay valid."""
        self._policy.require(principal, Action.MANAGE, Resource("token", EVERYBODY))
        return self._store.rotate_keys()

    def retire_key(self, principal: Principal, kid: str) -> int:
        """Forget a key that may be in wrong hands, and withdraw what it signed. Returns how many tokens that were.

        Raises:
            NotFound: there is no such key.
            Conflict: it is the one that signs.
        """
        self._policy.require(principal, Action.MANAGE, Resource("token", EVERYBODY))
        return self._store.retire_key(kid)

    def _id(self, token: str, user: str) -> str:
        """The token that is called so, among those of `user`."""
        if user == EVERYBODY:
            return token
        records = self._store.list(user)
        found = [record.id for record in records if token in (record.id, record.name)]
        if not found:
            raise NotFound(
                f"{user} has no token {token!r}", kind="token", hint="hyprstream policy token list"
            )
        if len(found) > 1:
            raise Conflict(
                f"{user} has {len(found)} tokens called {token!r}",
                hint=f"name one by id: {', '.join(found)}",
            )
        return found[0]

    def _issued(self, issued: "IssuedToken") -> Issued:
        record = issued.record
        return Issued(issued.token, record, self._policy.has_rules_for(f"token:{record.user}"))


def _refuse_vain(scope: Scope) -> None:
    head, colon, _ = scope.pattern.partition(":")
    stem = head.removesuffix("*") if not colon else head
    is_open = not colon and head.endswith("*")
    if not any(kind.startswith(stem) if is_open else kind == stem for kind in KINDS):
        raise Invalid(
            f"the scope {str(scope)!r} covers nothing",
            param="scope",
            hint=f"write model:* or infer:model:*; there are {', '.join(KINDS)}",
        )


def _refuse_limited(principal: Principal) -> None:
    if principal.scopes is not None:
        raise Denied(
            f"{principal} presents a token with scopes, and such a token makes no others",
            hint="use a token without scopes, or the command line",
        )
