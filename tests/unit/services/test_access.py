"""Who holds this key, and what that lets them do."""

import pytest

from hyprstream.core.errors import Unauthenticated
from hyprstream.core.principal import ANONYMOUS, REGISTRY, Action, Principal
from hyprstream.policy.policy import KeyPolicy
from hyprstream.services.access import KEY_HOLDER, Access


@pytest.mark.parametrize("key", [None, "dummy"])
def test_without_a_configured_key_everybody_is_anonymous(key: str | None) -> None:
    assert Access(None).identify(key) is ANONYMOUS


def test_the_configured_key_makes_a_key_holder() -> None:
    assert Access("secret").identify("secret") == KEY_HOLDER


@pytest.mark.parametrize("key", [None, "", "secre", "secret ", "SECRET", "' OR 1=1"])
def test_any_other_key_is_nobodys(key: str | None) -> None:
    with pytest.raises(Unauthenticated):
        Access("secret").identify(key)


def test_where_a_key_is_required_the_anonymous_may_do_nothing() -> None:
    policy = KeyPolicy(key_required=True)
    for action in Action:
        policy.require(KEY_HOLDER, action, REGISTRY)
        policy.require(Principal("local:ann"), action, REGISTRY)
        with pytest.raises(Unauthenticated):
            policy.require(ANONYMOUS, action, REGISTRY)


def test_where_none_is_required_everybody_may() -> None:
    for action in Action:
        KeyPolicy(key_required=False).require(ANONYMOUS, action, REGISTRY)
