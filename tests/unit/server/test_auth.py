"""Where clients put their keys, over HTTP and over WebSockets."""

from collections.abc import Iterable

import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from hyprstream.core.errors import Unauthenticated
from hyprstream.core.principal import Door, Principal
from hyprstream.server.auth import authenticate, presented_key
from hyprstream.server.middleware import Gate
from hyprstream.server.origins import OriginRule
from hyprstream.services.access import Access

KEY = "secret"
HOLDER = "token:app"


class Nothing:
    def identify(self, token: str) -> Principal:
        raise Unauthenticated("the token was revoked")

    def has_rules_for(self, subject: str) -> bool:
        return False


ACCESS = Access(Nothing(), Nothing(), api_key=KEY, api_key_subject=HOLDER)


def connection(*headers: tuple[str, str], kind: str = "http") -> HTTPConnection:
    raw: Iterable[tuple[bytes, bytes]] = [(k.lower().encode(), v.encode()) for k, v in headers]
    return HTTPConnection({"type": kind, "headers": list(raw)})


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([("Authorization", "Bearer a")], "a"),
        ([("authorization", "bearer  a ")], "a"),
        ([("x-api-key", "a")], "a"),
        ([("Authorization", "Bearer a"), ("x-api-key", "a")], "a"),
        ([("Authorization", "Bearer ")], None),
        ([("Authorization", "Basic YTpi")], None),
        ([("Authorization", "Basic YTpi"), ("x-api-key", "a")], "a"),
        ([("x-api-key", "")], None),
    ],
)
def test_a_key_is_a_bearers_or_x_api_key(headers: list[tuple[str, str]], key: str | None) -> None:
    for kind in ("http", "websocket"):
        assert presented_key(connection(*headers, kind=kind), Door.HTTP) == key


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Bearer a"), ("x-api-key", "b")],
        [("Authorization", "Bearer a"), ("Authorization", "Bearer b")],
        [("x-api-key", "a"), ("x-api-key", "b")],
    ],
)
def test_two_different_keys_are_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(Unauthenticated, match="two different"):
        authenticate(connection(*headers), ACCESS)


PROTOCOLS = f"realtime, openai-insecure-api-key.{KEY}, openai-beta.realtime-v1"


def test_a_websocket_may_offer_its_key_as_a_subprotocol_and_nobody_else() -> None:
    header = ("Sec-WebSocket-Protocol", PROTOCOLS)
    principal = authenticate(connection(header, kind="websocket"), ACCESS)
    assert principal == Principal(HOLDER, Door.WEBSOCKET)
    with pytest.raises(Unauthenticated):
        authenticate(connection(header), ACCESS)


def test_a_subprotocol_key_beside_another_in_a_header_is_two_keys() -> None:
    headers = [("Sec-WebSocket-Protocol", PROTOCOLS), ("Authorization", "Bearer other")]
    with pytest.raises(Unauthenticated, match="two different"):
        authenticate(connection(*headers, kind="websocket"), ACCESS)


@pytest.mark.parametrize("protocols", ["realtime", "openai-insecure-api-key.", "x.secret", ""])
def test_a_subprotocol_that_is_no_key_is_none(protocols: str) -> None:
    with pytest.raises(Unauthenticated, match="needed"):
        authenticate(connection(("Sec-WebSocket-Protocol", protocols), kind="websocket"), ACCESS)


def test_the_door_of_a_request_is_http() -> None:
    assert authenticate(connection(("x-api-key", KEY)), ACCESS) == Principal(HOLDER, Door.HTTP)


async def greet(socket: WebSocket) -> None:
    """A route that lets only those in who may come in."""
    try:
        principal = authenticate(socket, ACCESS)
    except Unauthenticated:
        return await socket.close()
    await socket.accept("realtime" if "realtime" in socket.scope["subprotocols"] else None)
    await socket.send_text(f"{principal} by {principal.door}")
    await socket.close()


@pytest.fixture
def client() -> TestClient:
    app = Starlette(routes=[WebSocketRoute("/", greet)])
    return TestClient(Gate(app, OriginRule(("https://app.example",))))


@pytest.mark.parametrize("headers", [{"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}])
def test_a_websocket_opens_with_a_key_in_a_header(
    client: TestClient, headers: dict[str, str]
) -> None:
    with client.websocket_connect("/", headers=headers) as socket:
        assert socket.receive_text() == f"{HOLDER} by ws"


def test_a_websocket_opens_with_a_key_in_a_subprotocol_which_is_not_echoed(
    client: TestClient,
) -> None:
    names = [name.strip() for name in PROTOCOLS.split(",")]
    with client.websocket_connect("/", subprotocols=names) as socket:
        assert socket.accepted_subprotocol == "realtime"
        assert socket.receive_text() == f"{HOLDER} by ws"


@pytest.mark.parametrize("key", [None, "wrong", "hypr_revoked"])
def test_a_websocket_without_a_good_key_is_never_accepted(
    client: TestClient, key: str | None
) -> None:
    headers = {"x-api-key": key} if key else {}
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/", headers=headers):
        pytest.fail("it was accepted")


@pytest.mark.parametrize(
    ("origin", "is_let_in"), [("https://app.example", True), ("https://evil.example", False)]
)
def test_a_websocket_of_a_foreign_page_does_not_reach_the_application(
    client: TestClient, origin: str, is_let_in: bool
) -> None:
    headers = {"x-api-key": KEY, "origin": origin}
    if is_let_in:
        with client.websocket_connect("/", headers=headers) as socket:
            assert socket.receive_text() == f"{HOLDER} by ws"
        return
    with (
        pytest.raises(WebSocketDisconnect) as caught,
        client.websocket_connect("/", headers=headers),
    ):
        pytest.fail("it was accepted")
    assert caught.value.code == 1008
