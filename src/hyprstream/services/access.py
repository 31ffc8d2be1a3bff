"""Who asks? Knows tokens, the one configured key and what a connection proves; knows nothing of headers."""

import hmac
from dataclasses import replace
from hashlib import sha256
from typing import Protocol

from hyprstream.core.errors import Unauthenticated
from hyprstream.core.principal import ANONYMOUS, Door, Principal

TOKEN_PREFIX = "hypr_"


class TokenIdentifier(Protocol):
    """Knows the tokens that were issued."""

    def identify(self, token: str) -> Principal:
        """Whom a token stands for; Unauthenticated where it is not, or no longer, valid."""
        ...


class KeylessPolicy(Protocol):
    """Knows whether somebody who shows no key may do anything at all."""

    def has_rules_for(self, subject: str) -> bool:
        """Whether any rule allows this subject, or one of its roles, anything."""
        ...


class Access:
    """Turns a presented key, or what the connection proves without one, into a Principal.

    Args:
        api_key: one key that is not a token. Where there is one, a request needs it or a token.
        api_key_subject: who holds it.
    """

    def __init__(
        self,
        tokens: TokenIdentifier,
        policy: KeylessPolicy,
        *,
        api_key: str | None,
        api_key_subject: str,
    ) -> None:
        self._tokens = tokens
        self._policy = policy
        self._digest = _digest(api_key) if api_key else None
        self._api_key_subject = api_key_subject

    def identify(self, key: str | None, *, peer: str | None, door: Door) -> Principal:
        """The holder of `key`. Without one, `peer` (`local:alice`, `peer:node-7`) if the connection proves it, else anonymous.

        Whom the policy allows nothing as `peer` is anonymous where that allows more: who is known may do no less than who is
        not. A key nobody issued, such as the dummy that clients insist on, counts as none where the policy allows the
        keyless anything.

        Raises:
            Unauthenticated: the token is not valid; a key is configured and this is none, or another one; or the key is
                nobody's and the keyless may do nothing.
        """
        if key and key.startswith(TOKEN_PREFIX):
            return _through(self._tokens.identify(key), door)
        if self._digest is not None:
            return Principal(self._holder(key, self._digest), door)
        subjects = (peer, ANONYMOUS.subject) if peer else (ANONYMOUS.subject,)
        for subject in subjects:
            if self._policy.has_rules_for(subject):
                return Principal(subject, door)
        if key:
            raise Unauthenticated(
                "the API key is not valid", hint="send a token: hyprstream policy token create USER"
            )
        return Principal(subjects[0], door)

    def _holder(self, key: str | None, digest: bytes) -> str:
        if not key:
            raise Unauthenticated(
                "an API key is needed", hint="send it as `Authorization: Bearer KEY`"
            )
        # Of digests, as comparing the keys themselves would tell their length.
        if not hmac.compare_digest(_digest(key), digest):
            raise Unauthenticated(
                "the API key is not valid",
                hint="send a token, or the key set as HYPRSTREAM_API_KEY",
            )
        return self._api_key_subject


def _through(principal: Principal, door: Door) -> Principal:
    return principal if principal.door is door else replace(principal, door=door)


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()
