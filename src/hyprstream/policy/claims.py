"""What a token says. Knows JWT (RFC 7519) signed with EdDSA (RFC 8037), and the keys; knows no database.

A token is `hypr_` and a JWT: header `alg`, `typ`, `kid`; claims `iss`, `aud`, `sub` (the user), `jti`, `iat`, `nbf`, `exp`
(absent for never) and `scopes` (absent for no limit). Times are seconds since the epoch.
"""

from dataclasses import dataclass
from typing import cast

import jwt
from jwt.utils import base64url_encode

from hyprstream.core.errors import Invalid, Unauthenticated
from hyprstream.core.principal import Scope
from hyprstream.policy.keys import KeyRing, SigningKey

PREFIX = "hypr_"
ISSUER = AUDIENCE = "hyprstream"
ALGORITHM = "EdDSA"
MAX_BYTES = 4096
LEEWAY_SECONDS = 60
"""How far ahead the clock of whoever issued a token may be."""

_HINT = "issue a new one with: hyprstream policy token create USER"


@dataclass(frozen=True, slots=True)
class Claims:
    """Whom a token stands for, and until when."""

    id: str
    user: str
    issued: int
    expires: int | None = None
    """None is never."""
    scopes: tuple[Scope, ...] | None = None
    """None is no limit beyond the policy's."""


def sign(claims: Claims, key: SigningKey) -> str:
    """The token that says this.

    Raises:
        Invalid: it would be longer than is accepted.
    """
    payload: dict[str, object] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": claims.user,
        "jti": claims.id,
        "iat": claims.issued,
        "nbf": claims.issued,
    }
    if claims.expires is not None:
        payload["exp"] = claims.expires
    if claims.scopes is not None:
        payload["scopes"] = [str(scope) for scope in claims.scopes]
    token = PREFIX + jwt.encode(payload, key.private, ALGORITHM, {"kid": key.kid})
    if len(token) > MAX_BYTES:
        raise Invalid(
            f"a token with {len(claims.scopes or ())} scopes has {len(token)} bytes, over the limit of {MAX_BYTES}",
            param="scopes",
            hint="use fewer or wider scopes, such as model:*",
        )
    return token


def verify(token: str, keys: KeyRing, now: float) -> Claims:
    """What a token says, if one of `keys` signed it and `now` lies within its time. It may be revoked nevertheless.

    Raises:
        Unauthenticated: it is damaged, forged, another server's, expired or from the future; the message says which.
    """
    if len(token) > MAX_BYTES or not token.isascii():
        raise _refused(f"the token is not one of ours: {len(token)} characters")
    payload = _payload(token.removeprefix(PREFIX), keys)
    try:
        issued, starts, expires = (_seconds(payload, name) for name in ("iat", "nbf", "exp"))
        claims = Claims(
            str(payload["jti"]), str(payload["sub"]), issued or 0, expires, _scopes(payload)
        )
    except (ValueError, Invalid) as error:
        raise _refused(f"the token says nonsense: {error}") from None
    if max(issued or 0, starts or 0) > now + LEEWAY_SECONDS:
        raise _refused("the token is not valid yet; it was issued in the future")
    if expires is not None and expires <= now:
        raise expired()
    return claims


def expired() -> Unauthenticated:
    """What a token is answered whose time is over."""
    return _refused("the token has expired")


def _payload(token: str, keys: KeyRing) -> dict[str, object]:
    try:
        kid = cast("dict[str, object]", jwt.get_unverified_header(token)).get("kid")
        key = keys.public(kid) if isinstance(kid, str) else None
        if key is None:
            raise _refused("the token is signed with a key that is not, or no longer, known here")
        whole = jwt.decode_complete(
            token,
            key,
            algorithms=[ALGORITHM],
            issuer=ISSUER,
            audience=AUDIENCE,
            # Times are compared with our own clock, and without a leeway for the end.
            options={
                "require": ["iss", "aud", "sub", "jti", "iat", "nbf"],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
    except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
        raise _refused(_reason(error)) from None
    # The last character has spare bits, and a decoder overlooks padding: a token is to have one spelling only.
    if not token.endswith("." + base64url_encode(whole["signature"]).decode()):
        raise _refused("the token is damaged")
    return whole["payload"]


def _reason(error: Exception) -> str:
    match error:
        case jwt.InvalidAlgorithmError():
            return f"the token is not signed with {ALGORITHM}"
        case jwt.InvalidSignatureError():
            return "the token's signature is wrong: it was altered, or another key signed it"
        case jwt.InvalidIssuerError():
            return "the token was issued by another server"
        case jwt.InvalidAudienceError():
            return "the token was issued for another server"
        case jwt.MissingRequiredClaimError():
            return f"the token lacks the claim {error.claim}"
        case _:
            return "the token is damaged"


def _seconds(payload: dict[str, object], name: str) -> int | None:
    value = payload.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError(f"{name} is not a number of seconds")


def _scopes(payload: dict[str, object]) -> tuple[Scope, ...] | None:
    texts = payload.get("scopes")
    if texts is None:
        return None
    if not isinstance(texts, list):
        raise ValueError("scopes is not a list")
    return tuple(Scope.parse(str(text)) for text in cast("list[object]", texts))


def _refused(message: str) -> Unauthenticated:
    return Unauthenticated(message, hint=_HINT)
