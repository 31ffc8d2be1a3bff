"""Whom a connection proves, on real loopback sockets."""

import os
import socket
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import httpx
import pytest
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from hyprstream.core.principal import local_subject
from hyprstream.server import peer, socket_table
from hyprstream.server.peer import STATE, Connection, proven_peer
from hyprstream.server.run import Server
from hyprstream.server.socket_table import owner_of_socket
from support.front_door import SOON

ME = local_subject(os.getuid())
STRANGER = 54321

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")


@pytest.fixture(params=["kernel", "proc"])
def table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to look a socket up."""
    if request.param == "proc":

        def refuse(*_: object) -> None:
            raise PermissionError("not here")

        monkeypatch.setattr(socket_table, "_ask_kernel", refuse)


LISTENERS = {
    "IPv4": (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
    "IPv6": (socket.AF_INET6, "::1", "::1"),
    "IPv4 on both": (socket.AF_INET6, "::", "127.0.0.1"),
    "IPv4 mapped": (socket.AF_INET6, "::", "::ffff:127.0.0.1"),
}


@pytest.fixture(params=LISTENERS)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's end and ours."""
    family, bound, reached = LISTENERS[request.param]
    with socket.socket(family) as listener:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((bound, 0))
        listener.listen()
        client = socket.create_connection((reached, listener.getsockname()[1]), SOON)
        with client, listener.accept()[0] as ours:
            yield client, ours


def connection(ours: socket.socket) -> Connection:
    names = {"sockname": ours.getsockname(), "peername": ours.getpeername()}
    return Connection(SimpleNamespace(get_extra_info=names.get))  # type: ignore[arg-type]


@pytest.mark.usefixtures("table")
def test_on_loopback_the_user_who_made_the_socket_is_known(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    assert connection(pair[1]).local == ME


@pytest.mark.usefixtures("table")
def test_whoever_has_sent_all_and_waits_is_still_known(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, ours = pair
    client.shutdown(socket.SHUT_WR)
    assert ours.recv(1) == b""
    assert connection(ours).local == ME


@pytest.mark.usefixtures("table")
def test_a_socket_that_was_closed_is_nobodys_and_least_of_all_roots(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, ours = pair
    client.close()
    assert connection(ours).local is None


@pytest.mark.usefixtures("table")
def test_a_listener_on_the_port_asked_for_is_not_taken_for_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = socket_table.IPv4Address("127.0.0.1")
        port = listener.getsockname()[1]
        assert owner_of_socket(local=(address, port), remote=(address, 9)) is None


@only_root
@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(("uid", "subject"), [(STRANGER, f"local:{STRANGER}"), (65534, None)])
def test_another_user_is_another_subject_and_one_the_kernel_cannot_name_is_none(
    uid: int, subject: str | None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.seteuid(uid)
        try:
            client = socket.create_connection(listener.getsockname(), SOON)
        finally:
            os.seteuid(0)
        with client, listener.accept()[0] as ours:
            assert connection(ours).local == subject


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("192.0.2.1", 80), ("127.0.0.1", 5000)),
        (("127.0.0.1", 80), ("192.0.2.1", 5000)),
        (("::1", 80, 0, 0), ("fe80::1%eth0", 5000, 0, 2)),
        (("::", 80, 0, 0), ("::ffff:192.0.2.1", 5000, 0, 0)),
        (None, None),
        ("/run/socket", ""),
    ],
)
def test_beyond_loopback_nobody_is_looked_up(
    ours: object, theirs: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "owner_of_socket", lambda **_: 0)
    names = {"sockname": ours, "peername": theirs}
    assert Connection(SimpleNamespace(get_extra_info=names.get)).local is None  # type: ignore[arg-type]


def test_other_systems_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    address = (socket_table.IPv4Address("127.0.0.1"), 1)
    assert owner_of_socket(local=address, remote=address) is None


@asynccontextmanager
async def telling(host: str = "127.0.0.1") -> AsyncGenerator[httpx.AsyncClient]:
    """A client of a server that answers with what the connection proves."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        response = PlainTextResponse(str(proven_peer(Request(scope))))
        await response(scope, receive, send)

    server = Server(app, host, 0, grace_seconds=1)
    async with (
        server.running(),
        httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=SOON) as client,
    ):
        yield client


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_request_over_loopback_proves_its_user(host: str) -> None:
    async with telling(host) as client:
        assert (await client.get("/")).text == ME


@pytest.mark.parametrize(
    "header", ["Forwarded", "X-Forwarded-For", "x-real-ip", "Via", "X-FORWARDED-FOR"]
)
async def test_a_proxy_that_speaks_for_others_proves_nothing(header: str) -> None:
    async with telling() as client:
        assert (await client.get("/", headers={header: "192.0.2.1"})).text == "None"
        assert (await client.get("/", headers={header: ""})).text == "None"
        assert (await client.get("/")).text == ME, "each request on the connection for itself"


async def test_a_connection_is_looked_up_once_and_only_if_somebody_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    def owner(**addresses: object) -> int:
        asked.append(addresses)
        return STRANGER

    monkeypatch.setattr(peer, "owner_of_socket", owner)
    async with telling() as client:
        assert asked == []
        for _ in range(3):
            assert (await client.get("/")).text == f"local:{STRANGER}"
        assert len(asked) == 1


def test_without_a_connection_nothing_is_proved() -> None:
    assert proven_peer(HTTPConnection({"type": "http", "headers": []})) is None


def certified(**certificate: object) -> str | None:
    tls = SimpleNamespace(getpeercert=lambda: certificate)
    transport = SimpleNamespace(get_extra_info={"ssl_object": tls}.get)
    scope = {"type": "http", "headers": [], "state": {STATE: Connection(transport)}}  # type: ignore[arg-type]
    return proven_peer(HTTPConnection(scope))


def subject(*names: str) -> tuple[tuple[tuple[str, str], ...], ...]:
    return ((("organizationName", "O"),), *((("commonName", name),) for name in names))


DNS = (("IP Address", "192.0.2.1"), ("DNS", "a.example"), ("DNS", "b.example"))


@pytest.mark.parametrize(
    ("certificate", "expected"),
    [
        ({"subject": subject("node-7")}, "peer:node-7"),
        ({"subject": subject("node-7"), "subjectAltName": DNS}, "peer:node-7"),
        ({"subject": subject(), "subjectAltName": DNS}, "peer:a.example"),
        ({"subject": subject("one", "two"), "subjectAltName": DNS}, "peer:a.example"),
        ({"subject": subject("one", "two")}, None),
        ({"subject": subject("*")}, None),
        ({"subject": subject("a, *, *, *, allow")}, None),
        ({"subject": subject("node-7\n")}, None),
        ({"subject": subject(), "subjectAltName": (("DNS", "*.example"),)}, None),
        ({}, None),
    ],
)
def test_a_certificate_proves_its_name_if_it_has_one_that_a_policy_can_write(
    certificate: dict[str, object], expected: str | None
) -> None:
    assert certified(**certificate) == expected


def test_a_certificate_without_a_usable_name_does_not_make_a_local_user_of_who_passes_it_on() -> (
    None
):
    here = ("127.0.0.1", 1)
    tls = SimpleNamespace(getpeercert=lambda: {"subject": subject("Acme, Inc.")})
    info = {"ssl_object": tls, "sockname": here, "peername": here}
    wire = Connection(SimpleNamespace(get_extra_info=info.get))  # type: ignore[arg-type]
    wire.__dict__["local"] = "local:proxy"
    scope = {"type": "http", "headers": [], "state": {STATE: wire}}
    assert proven_peer(HTTPConnection(scope)) is None
