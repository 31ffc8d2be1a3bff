"""Who holds this key; and who are those who show none."""

from dataclasses import dataclass

import pytest

from hyprstream.core.errors import Unauthenticated
from hyprstream.core.principal import Door, Principal, Scope
from hyprstream.services.access import Access

TOKEN = "hypr_good"
ALICE = Principal("token:alice", scopes=(Scope.parse("model:*"),), credential="1")


class OneToken:
    def identify(self, token: str) -> Principal:
        if token != TOKEN:
            raise Unauthenticated("the token was revoked")
        return ALICE


@dataclass
class Allows:
    """A policy with rules for these subjects."""

    subjects: tuple[str, ...] = ()

    def has_rules_for(self, subject: str) -> bool:
        return subject in self.subjects


def access(*subjects: str, api_key: str | None = None) -> Access:
    return Access(OneToken(), Allows(subjects), api_key=api_key, api_key_subject="token:app")


def identified(
    access: Access, key: str | None, peer: str | None = None, door: Door = Door.HTTP
) -> Principal:
    return access.identify(key, peer=peer, door=door)


@pytest.mark.parametrize("api_key", [None, "secret"])
@pytest.mark.parametrize("peer", [None, "local:bob"])
def test_a_token_stands_for_its_user_within_its_scopes(
    api_key: str | None, peer: str | None
) -> None:
    assert identified(access(api_key=api_key), TOKEN, peer) == ALICE
    assert identified(access(), TOKEN, peer).credential == "1"


@pytest.mark.parametrize("door", Door)
def test_a_principal_came_through_its_door(door: Door) -> None:
    for who, key in ((access(), TOKEN), (access(), None), (access(api_key="secret"), "secret")):
        assert identified(who, key, door=door).door is door


@pytest.mark.parametrize("api_key", [None, "secret", "hypr_bad"])
def test_a_bad_token_is_refused_whoever_else_one_might_be(api_key: str | None) -> None:
    who = access("anonymous", "local:bob", api_key=api_key)
    for peer in (None, "local:bob"):
        with pytest.raises(Unauthenticated, match="revoked"):
            identified(who, "hypr_bad", peer)


def test_the_configured_key_stands_for_the_configured_subject() -> None:
    assert identified(access(api_key="secret"), "secret") == Principal("token:app")


@pytest.mark.parametrize("key", [None, "", "secre", "secret ", "SECRET", "' OR 1=1", "schlüssel"])
@pytest.mark.parametrize("peer", [None, "local:bob", "peer:node-7"])
def test_where_a_key_is_configured_no_other_will_do_and_no_peer_either(
    key: str | None, peer: str | None
) -> None:
    with pytest.raises(Unauthenticated):
        identified(access("anonymous", "local:bob", "peer:node-7", api_key="secret"), key, peer)


@pytest.mark.parametrize("peer", ["local:bob", "peer:node-7"])
def test_without_a_key_one_is_whom_the_connection_proves(peer: str) -> None:
    assert identified(access(), None, peer) == Principal(peer)


def test_without_a_key_or_a_peer_one_is_anonymous() -> None:
    assert identified(access(), None).is_anonymous


@pytest.mark.parametrize("peer", [None, "local:bob"])
def test_a_dummy_key_is_none_where_the_keyless_may_do_something(peer: str | None) -> None:
    subject = peer or "anonymous"
    assert identified(access(subject), "dummy", peer) == Principal(subject)


def test_a_dummy_key_is_a_wrong_one_where_the_keyless_may_do_nothing() -> None:
    with pytest.raises(Unauthenticated, match="not valid"):
        identified(access("local:bob"), "dummy")
    with pytest.raises(Unauthenticated, match="not valid"):
        identified(access(), "dummy", "local:bob")


@pytest.mark.parametrize("key", [None, "dummy"])
@pytest.mark.parametrize("peer", ["local:bob", "peer:node-7"])
def test_whom_the_policy_does_not_know_may_do_what_the_anonymous_may(
    key: str | None, peer: str
) -> None:
    assert identified(access("anonymous"), key, peer).is_anonymous
    assert identified(access("anonymous", peer), key, peer) == Principal(peer)
