"""Who asks? Knows where clients put their keys; whose key it is, `services.access` knows, and what a connection proves, `peer`."""

from collections.abc import Iterator

from starlette.requests import HTTPConnection

from hyprstream.core.errors import Unauthenticated
from hyprstream.core.principal import Door, Principal
from hyprstream.server.peer import proven_peer
from hyprstream.services.access import Access

SUBPROTOCOL_KEY = "openai-insecure-api-key."
"""Before the key, where a browser's WebSocket offers it as a subprotocol, having no other header to set."""


def authenticate(connection: HTTPConnection, access: Access) -> Principal:
    """The principal of a request, or of whoever opens a WebSocket.

    Raises:
        Unauthenticated: the key is a wrong one, there are two different ones, or none where one is needed.
    """
    door = Door.WEBSOCKET if connection.scope["type"] == "websocket" else Door.HTTP
    return access.identify(presented_key(connection, door), peer=proven_peer(connection), door=door)


def presented_key(connection: HTTPConnection, door: Door) -> str | None:
    """The key in `Authorization: Bearer KEY` or `x-api-key: KEY`, the two places OpenAI's and Anthropic's clients use.

    On WebSockets also the one offered as the subprotocol `openai-insecure-api-key.KEY`.
    """
    offered = [*_bearers(connection), *connection.headers.getlist("x-api-key")]
    if door is Door.WEBSOCKET:
        offered += _subprotocol_keys(connection)
    keys = {key for key in offered if key}
    if len(keys) > 1:
        raise Unauthenticated("the request carries two different keys", hint="send one")
    return keys.pop() if keys else None


def _bearers(connection: HTTPConnection) -> Iterator[str]:
    for value in connection.headers.getlist("authorization"):
        scheme, _, key = value.partition(" ")
        if scheme.lower() == "bearer":
            yield key.strip()


def _subprotocol_keys(connection: HTTPConnection) -> Iterator[str]:
    for value in connection.headers.getlist("sec-websocket-protocol"):
        for name in value.split(","):
            if name.strip().startswith(SUBPROTOCOL_KEY):
                yield name.strip().removeprefix(SUBPROTOCOL_KEY)
