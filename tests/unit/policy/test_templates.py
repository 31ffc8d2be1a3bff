"""What the built-in sets of rules grant, exactly."""

import pytest

from hyprstream.core.errors import NotFound
from hyprstream.core.principal import ANONYMOUS, Action, Door, Principal, Resource
from hyprstream.policy import templates
from hyprstream.policy.policy import CasbinPolicy
from hyprstream.policy.rules import KINDS, parse
from support.memory_history import MemoryHistory

MODEL = Resource("model", "qwen3:main")


def granted(name: str, principal: Principal) -> set[tuple[str, str]]:
    """Everything one template allows a principal, by kind of resource and action."""
    policy = CasbinPolicy(MemoryHistory(templates.apply("", name)), owner="")
    resources = [Resource(kind, name) for kind in KINDS for name in (None, "x:main")]
    return {
        (str(resource), str(action))
        for resource in resources
        for action in Action
        if policy.allows(principal, action, resource)
    }


def test_local_lets_the_users_of_this_machine_do_everything_and_nobody_else_anything() -> None:
    everything = 2 * len(KINDS) * len(Action)
    assert len(granted("local", Principal("local:ann", Door.HTTP))) == everything
    assert granted("local", ANONYMOUS) == set()
    assert granted("local", Principal("token:ann")) == set()


def test_public_inference_is_to_see_and_use_models() -> None:
    assert granted("public-inference", ANONYMOUS) == {
        ("registry", "query"),
        ("registry:x:main", "query"),
        ("model:x:main", "query"),
        ("model:x:main", "infer"),
    }


def test_public_read_is_to_see_models() -> None:
    assert granted("public-read", ANONYMOUS) == {
        ("registry", "query"),
        ("registry:x:main", "query"),
        ("model:x:main", "query"),
    }


@pytest.mark.parametrize("name", templates.names())
def test_a_template_is_sound_and_applied_once(name: str) -> None:
    policy = templates.apply("p, token:a, *, *, *, allow", name)
    assert len(parse(policy).rules) > 1
    assert templates.apply(policy, name) == policy


def test_an_unknown_template_names_those_there_are() -> None:
    with pytest.raises(NotFound, match="local, public-inference, public-read"):
        templates.apply("", "public")
