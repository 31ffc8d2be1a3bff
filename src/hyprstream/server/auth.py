"""Who asks? Knows where clients put their keys; whose key it is, `services.access` knows."""

from starlette.datastructures import Headers

from hyprstream.core.errors import Unauthenticated
from hyprstream.core.principal import Principal
from hyprstream.services.access import Access


def authenticate(headers: Headers, access: Access) -> Principal:
    """The principal of a request.

    Raises:
        Unauthenticated: the key is a wrong one, or there are two different ones.
    """
    return access.identify(presented_key(headers))


def presented_key(headers: Headers) -> str | None:
    """The key in `Authorization: Bearer KEY` or `x-api-key: KEY`, the two places OpenAI's and Anthropic's clients use."""
    keys = {key for key in (*_bearers(headers), *headers.getlist("x-api-key")) if key}
    if len(keys) > 1:
        raise Unauthenticated("the request carries two different keys", hint="send one")
    return keys.pop() if keys else None


def _bearers(headers: Headers) -> list[str]:
    pairs = (value.partition(" ") for value in headers.getlist("authorization"))
    return [key.strip() for scheme, _, key in pairs if scheme.lower() == "bearer"]
