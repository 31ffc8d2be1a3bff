"""Tokens at the command line: printed once, listed without their secret, withdrawn."""

import json
import re
from pathlib import Path

import pytest

from support.command_line import Command


@pytest.fixture(autouse=True)
def local_users_may(hyprstream: Command) -> None:
    """Let the users of this machine do everything."""
    hyprstream("policy", "apply-template", "local")


def test_a_token_is_printed_alone_and_the_rest_is_said_beside_it(hyprstream: Command) -> None:
    outcome = hyprstream("policy", "token", "create", "alice", "--name", "dev")
    assert re.fullmatch(r"hypr_[\w.-]+\n", outcome.out)
    assert outcome.out.strip() not in outcome.err
    assert "not shown again" in outcome.err
    assert "the policy allows token:alice nothing yet" in outcome.err


@pytest.mark.parametrize("words", [["alice"], ["--user", "alice"], ["token:alice"]])
def test_a_user_is_an_argument_or_an_option(hyprstream: Command, words: list[str]) -> None:
    outcome = hyprstream("policy", "token", "create", *words, "--json")
    assert json.loads(outcome.out)["user"] == "alice"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["alice", "--user", "bob"],
        ["alice", "--expires", "soon"],
        ["alice", "--scope", "every thing"],
    ],
)
def test_a_token_that_makes_no_sense_is_bad_usage(hyprstream: Command, words: list[str]) -> None:
    outcome = hyprstream("policy", "token", "create", *words)
    assert (outcome.code, outcome.out) == (2, "")


@pytest.mark.parametrize("expires", ["12h", "30d", "4w", "1y", "never"])
def test_every_unit_of_lifetime_is_known(hyprstream: Command, expires: str) -> None:
    outcome = hyprstream("policy", "token", "create", "alice", "--expires", expires, "--json")
    assert (json.loads(outcome.out)["expires"] is None) == (expires == "never")


def test_a_list_never_holds_the_secret(hyprstream: Command) -> None:
    words = ["alice", "--name", "dev", "--scope", "model:*", "--scope", "query:registry"]
    token = hyprstream("policy", "token", "create", *words).out.strip()
    heading, row = hyprstream("policy", "token", "list").out.splitlines()
    assert heading.split()[:4] == ["ID", "USER", "NAME", "STATE"]
    assert row.split()[1:4] == ["alice", "dev", "active"]
    assert row.endswith("model:* query:registry")
    as_json = hyprstream("policy", "token", "list", "--json").out
    assert token not in row + as_json
    assert json.loads(as_json)[0]["scopes"] == ["model:*", "query:registry"]
    assert hyprstream("policy", "token", "list", "bob").out == ""


def test_a_revoked_token_leaves_the_list(hyprstream: Command) -> None:
    hyprstream("policy", "token", "create", "alice", "--name", "dev")
    assert "revoked token dev of alice" in hyprstream("policy", "token", "revoke", "dev").err
    assert hyprstream("policy", "token", "list").out == ""
    assert "revoked" in hyprstream("policy", "token", "list", "--all").out
    assert hyprstream("policy", "token", "revoke", "dev").code == 3


def test_tokens_are_found_under_either_name_of_their_user(hyprstream: Command) -> None:
    hyprstream("policy", "token", "create", "alice", "--name", "dev")
    assert "dev" in hyprstream("policy", "token", "list", "token:alice").out
    assert hyprstream("policy", "token", "rotate", "dev", "--user", "token:alice").code == 0
    assert hyprstream("policy", "token", "revoke", "dev", "--user", "alice").code == 0


def test_a_rotated_token_is_printed_once_too(hyprstream: Command) -> None:
    old = hyprstream("policy", "token", "create", "alice", "--name", "dev").out
    outcome = hyprstream("policy", "token", "rotate", "dev")
    assert outcome.out.startswith("hypr_")
    assert outcome.out != old
    assert len(json.loads(hyprstream("policy", "token", "list", "--json").out)) == 1


def test_new_keys_leave_old_tokens_valid(hyprstream: Command, home: Path) -> None:
    hyprstream("policy", "token", "create", "alice", "--name", "dev")
    outcome = hyprstream("policy", "token", "rotate-keys")
    (private,) = (home / ".local/share/hyprstream/keys").glob("*.key")
    assert f"key {private.stem}" in outcome.err
    assert private.stat().st_mode & 0o777 == 0o600
    assert len(json.loads(hyprstream("policy", "token", "list", "--json").out)) == 1


def test_a_key_in_wrong_hands_takes_its_tokens_with_it(hyprstream: Command) -> None:
    issued = hyprstream("policy", "token", "create", "alice", "--name", "dev", "--json").out
    kid = json.loads(issued)["kid"]
    assert hyprstream("policy", "token", "retire-key", kid).code == 1
    hyprstream("policy", "token", "rotate-keys")
    outcome = hyprstream("policy", "token", "retire-key", kid)
    assert (outcome.code, "1 token withdrawn" in outcome.err) == (0, True)
    assert hyprstream("policy", "token", "list").out == ""
    assert hyprstream("policy", "token", "retire-key", kid).code == 3
