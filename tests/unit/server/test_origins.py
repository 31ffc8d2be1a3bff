"""Which Host and Origin headers are ours."""

import pytest

from hyprstream.core.errors import Denied, Invalid
from hyprstream.server.origins import HostRule, OriginRule


def scope(*headers: tuple[str, str]) -> dict[str, object]:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return {"type": "http", "headers": raw, "server": ("127.0.0.1", 8080)}


LOOPBACK = HostRule(is_loopback=True, allowed=("box.lan", "tunnel:9000"))
PUBLIC = HostRule(is_loopback=False, allowed=())


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8080",
        "LOCALHOST:8080",
        "127.0.0.1:8080",
        "[::1]:8080",
        "box.lan",
        "box.lan:1234",
        "tunnel:9000",
    ],
)
def test_our_own_names_are_accepted(host):
    LOOPBACK(scope(("host", host)))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.nip.io:8080",
        "localhost.evil.example",
        "localhost.",
        "localhost:9999",
        "tunnel:9001",
        "2130706433",
        "0.0.0.0:8080",
    ],
)
def test_a_foreign_name_is_denied_on_loopback(host):
    with pytest.raises(Denied):
        LOOPBACK(scope(("host", host)))


@pytest.mark.parametrize(
    "host", ["", "x/skip?", "x#", "x\\\\", "a b", "a@b", "a:b", "a:123456", "[::1", "é", "a\tb"]
)
@pytest.mark.parametrize("rule", [LOOPBACK, PUBLIC])
def test_a_malformed_host_is_invalid_everywhere(rule, host):
    with pytest.raises(Invalid):
        rule(scope(("host", host)))


@pytest.mark.parametrize("hosts", [(), ("localhost", "localhost"), ("localhost", "evil.example")])
def test_there_is_exactly_one_host(hosts):
    with pytest.raises(Invalid):
        PUBLIC(scope(*(("host", host) for host in hosts)))


def test_a_public_address_is_known_by_any_name():
    PUBLIC(scope(("host", "models.example:443")))


def test_a_public_address_with_a_list_is_known_by_that_list():
    rule = HostRule(is_loopback=False, allowed=("models.example",))
    rule(scope(("host", "models.example")))
    with pytest.raises(Denied):
        rule(scope(("host", "evil.example")))


def test_a_program_sends_no_origin():
    OriginRule(())(scope(("host", "localhost:8080")))


@pytest.mark.parametrize("origin", ["http://localhost:8080", "https://localhost:8080"])
def test_a_page_of_our_own_may_ask(origin):
    OriginRule(())(scope(("host", "localhost:8080"), ("origin", origin)))


@pytest.mark.parametrize(
    "origin",
    ["null", "", "http://evil.example", "http://localhost:3000", "http://[::1", "file://"],
)
def test_any_other_origin_is_denied(origin):
    with pytest.raises(Denied):
        OriginRule(())(scope(("host", "localhost:8080"), ("origin", origin)))


def test_a_listed_origin_may_ask_and_only_that_one():
    rule = OriginRule(("http://app.example",))
    rule(scope(("host", "localhost:8080"), ("origin", "http://app.example")))
    with pytest.raises(Denied):
        rule(scope(("host", "localhost:8080"), ("origin", "http://app.example.evil")))
    with pytest.raises(Denied):
        rule(
            scope(("host", "localhost:8080"), ("origin", "http://app.example"), ("origin", "null"))
        )


def test_a_star_lets_every_origin_ask():
    OriginRule(("*",))(scope(("host", "localhost:8080"), ("origin", "null")))
