"""Who asks, what on, and how far a scope reaches."""

import os
import pwd

import pytest

from hyprstream.core.errors import Invalid
from hyprstream.core.principal import (
    REGISTRY,
    Action,
    Door,
    Resource,
    Scope,
    covers,
    local_subject,
    model_resource,
    os_principal,
)
from hyprstream.core.refs import ModelRef


def test_a_user_of_this_machine_has_a_name_and_comes_by_the_command_line() -> None:
    name = pwd.getpwuid(os.getuid()).pw_name
    assert (os_principal().subject, os_principal().door) == (f"local:{name}", Door.CLI)


def test_a_user_without_a_name_has_a_number() -> None:
    assert local_subject(4_000_000_711) == "local:4000000711"


@pytest.mark.parametrize(
    ("pattern", "text", "is_covered"),
    [
        ("*", "model:qwen3:main", True),
        ("model:*", "model:qwen3:main", True),
        ("model:qwen3", "model:qwen3:main", True),
        ("model:qwen3", "model:qwen30:main", False),
        ("model:qwen*", "model:qwen30:main", True),
        ("model:qwen3:main", "model:qwen3:main", True),
        ("model:qwen3:main", "model:qwen3:mainline", False),
        ("registry", "registry:4711", True),
        ("registry:*", "registry", False),
        ("", "model:qwen3:main", False),
    ],
)
def test_a_pattern_covers_itself_and_what_is_below(
    pattern: str, text: str, is_covered: bool
) -> None:
    assert covers(pattern, text) is is_covered


def test_a_scope_of_two_parts_is_for_every_action() -> None:
    scope = Scope.parse("model:*")
    assert all(scope.allows(action, model_resource(ModelRef("qwen3"))) for action in Action)
    assert not scope.allows(Action.QUERY, REGISTRY)


def test_a_scope_with_an_action_is_for_that_one() -> None:
    scope = Scope.parse("infer:model:qwen3")
    assert scope.allows(Action.INFER, model_resource(ModelRef("qwen3", "v1")))
    assert scope.allows(Action.INFER, model_resource(ModelRef("qwen3", f"sha256:{'0' * 64}")))
    assert not scope.allows(Action.WRITE, model_resource(ModelRef("qwen3", "v1")))
    assert not scope.allows(Action.INFER, Resource("model", "llama:main"))


@pytest.mark.parametrize("text", ["model:*", "infer:model:*", "registry", "*", "query:*"])
def test_a_scope_reads_as_it_was_written(text: str) -> None:
    assert str(Scope.parse(text)) == text


@pytest.mark.parametrize("text", ["", "model *", "model:\n", "x" * 300])
def test_what_is_no_scope_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="is not a scope"):
        Scope.parse(text)
