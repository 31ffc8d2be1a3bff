"""The audit log at the command line: checked, read, searched."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hyprstream.cli.audit import parse_since
from hyprstream.core.errors import Invalid
from support.command_line import Command
from support.policy_tools import ME, run_as

NOON = datetime(2026, 2, 4, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def local_users_may(hyprstream: Command) -> None:
    """Let the users of this machine do everything."""
    hyprstream("policy", "apply-template", "local")


@pytest.fixture
def log(home: Path) -> Path:
    return home / ".local/share/hyprstream/audit/audit.jsonl"


def test_a_sound_log_is_called_so(hyprstream: Command) -> None:
    outcome = hyprstream("audit", "verify")
    assert outcome.code == 0
    assert outcome.out.startswith("sound: ")
    assert json.loads(hyprstream("audit", "verify", "--json").out)["problem"] is None


def test_a_changed_entry_is_named_by_file_and_line(hyprstream: Command, log: Path) -> None:
    log.write_text(log.read_text().replace(f'"subject":"{ME}"', '"subject":"local:you"', 1))
    outcome = hyprstream("audit", "verify")
    assert outcome.code == 1
    assert outcome.out.startswith("broken: audit.jsonl: line 1 was ")


def test_what_was_asked_is_in_the_tail(hyprstream: Command) -> None:
    assert f"allowed  {ME} manage policy (cli)" in hyprstream("audit", "tail").out
    assert len(hyprstream("audit", "tail", "-n", "1").out.splitlines()) == 1
    assert json.loads(hyprstream("audit", "tail", "--json").out.splitlines()[0])["seq"] == 1


def test_denials_are_found(hyprstream: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    hyprstream("policy", "rollback")
    run_as("somebody", monkeypatch)
    assert hyprstream("policy", "token", "create", "alice").code == 4
    run_as(ME.subject.removeprefix("local:"), monkeypatch)
    hyprstream("policy", "apply-template", "local")
    out = hyprstream("audit", "grep", "--denied", "--since", "1h").out
    assert "denied   local:somebody manage token:alice" in out
    assert hyprstream("audit", "grep", "--denied", "--subject", "alice").out == ""
    found = hyprstream("audit", "grep", "--resource", "token", "--action", "manage", "--json").out
    assert [json.loads(line)["subject"] for line in found.splitlines()] == ["local:somebody"]


def test_who_may_not_read_it_is_denied(
    hyprstream: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    hyprstream("policy", "rollback")
    run_as("somebody", monkeypatch)
    assert hyprstream("audit", "tail").code == 4


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("30m", "2026-02-04T11:30:00+00:00"),
        ("1h", "2026-02-04T11:00:00+00:00"),
        ("2d", "2026-02-02T12:00:00+00:00"),
        ("1w", "2026-01-28T12:00:00+00:00"),
        ("2026-02-04T10:00:00+02:00", "2026-02-04T08:00:00+00:00"),
    ],
)
def test_a_time_is_so_long_ago_or_a_date(text: str, meant: str) -> None:
    assert parse_since(text, NOON).isoformat() == meant


@pytest.mark.parametrize("text", ["", "soon", "1", "1y", "-1h", "999999w"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="is not a time"):
        parse_since(text, NOON)


def test_entries_cut_off_the_end_are_missed_though_the_log_goes_on(
    hyprstream: Command, log: Path
) -> None:
    hyprstream("policy", "check", "alice", "registry", "query")
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-2]))
    hyprstream("policy", "show")
    outcome = hyprstream("audit", "verify")
    assert outcome.code == 1
    assert outcome.out.startswith("not whole: ")
    assert "lost, by a power cut or by somebody's hand: 2" in outcome.err


def test_a_head_that_was_deleted_is_missed(hyprstream: Command, log: Path) -> None:
    log.with_name("audit.head").unlink()
    hyprstream("policy", "show")
    outcome = hyprstream("audit", "verify")
    assert (outcome.code, outcome.out[:9]) == (1, "not whole")
    assert "audit.head was missing" in outcome.err


def test_what_a_stranger_asked_for_gives_the_terminal_no_commands(hyprstream: Command) -> None:
    hyprstream("policy", "check", "alice", "registry", "query")
    hyprstream("policy", "token", "list", "\x1b[31mred")
    out = hyprstream("audit", "tail").out
    assert "red" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("subject", ["lokal:alice", "", "peer:"])
def test_a_user_that_cannot_be_is_bad_usage(hyprstream: Command, subject: str) -> None:
    assert hyprstream("audit", "grep", "--subject", subject).code == 2
    assert hyprstream("policy", "check", subject, "registry", "query").code == 2
