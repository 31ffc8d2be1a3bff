"""The policy at the command line: seen, explained, changed, undone."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hyprstream.cli.policy import parse_resource
from hyprstream.core.errors import Invalid
from support.command_line import Command, Outcome
from support.policy_tools import run_as

Edit = Callable[[str], Outcome]
"""Edits the draft with an editor that writes this text."""
ALLOW_ALICE = "p, token:alice, *, model:qwen3-small, infer, allow"


@pytest.fixture
def draft(home: Path) -> Path:
    return home / ".local/share/hyprstream/policy/policy.csv"


@pytest.fixture
def edit(hyprstream: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Edit:
    def run(text: str) -> Outcome:
        script = tmp_path / "my editor.py"
        script.write_text(f"import sys, pathlib; pathlib.Path(sys.argv[1]).write_text({text!r})")
        monkeypatch.setenv("VISUAL", shlex.join([sys.executable, str(script)]))
        return hyprstream("policy", "edit")

    return run


def test_the_documented_lines_work_as_written(hyprstream: Command) -> None:
    assert hyprstream("policy", "show").code == 0
    assert hyprstream("policy", "check", "alice", "model:qwen3-small", "infer").code == 1
    assert hyprstream("policy", "apply-template", "local").code == 0
    token = shlex.split(
        'policy token create --user alice --name "dev-token" --expires 30d --scope "model:*"'
    )
    assert hyprstream(*token).out.startswith("hypr_")
    short = shlex.split('policy token create --user alice --name "my-token" --expires 1d')
    assert hyprstream(*short).out.startswith("hypr_")
    assert hyprstream("policy", "history").code == 0
    assert hyprstream("policy", "diff").code == 0
    assert hyprstream("policy", "rollback", "HEAD~1").code == 0


def test_a_fresh_install_denies_and_says_how_to_begin(hyprstream: Command) -> None:
    outcome = hyprstream("policy", "show")
    assert (outcome.code, outcome.out) == (0, "")
    assert "everything is denied" in outcome.err
    assert "hyprstream policy apply-template local" in outcome.err
    refused = hyprstream("policy", "token", "create", "alice")
    assert (refused.code, refused.out) == (4, "")


def test_every_value_stands_below_its_heading(hyprstream: Command, edit: Edit) -> None:
    edit(
        "p, token:alice, http, model:qwen3-small, infer, allow\n"
        "p, medical, *, registry, query, deny\n"
        "g, token:bob, medical\n"
    )
    assert hyprstream("policy", "apply").code == 0
    rules, roles = (part.splitlines() for part in hyprstream("policy", "show").out.split("\n\n"))
    assert [line.split() for line in rules] == [
        ["SUBJECT", "DOOR", "RESOURCE", "ACTION", "EFFECT"],
        ["token:alice", "http", "model:qwen3-small", "infer", "allow"],
        ["medical", "*", "registry", "query", "deny"],
    ]
    for line in rules[1:]:
        assert line.index(line.split()[2]) == rules[0].index("RESOURCE")
        assert line.index(line.split()[3]) == rules[0].index("ACTION", rules[0].index("RESOURCE"))
    assert [line.split() for line in roles] == [["SUBJECT", "ROLE"], ["token:bob", "medical"]]


def test_the_policy_is_shown_as_text_and_as_json(hyprstream: Command, edit: Edit) -> None:
    edit(f"# mine\n{ALLOW_ALICE}\n")
    hyprstream("policy", "apply", "-m", "alice may infer")
    assert hyprstream("policy", "show", "--raw").out == f"# mine\n{ALLOW_ALICE}\n"
    described = json.loads(hyprstream("policy", "show", "--json").out)
    assert described["version"]["message"].strip() == "alice may infer"
    assert [rule["subject"] for rule in described["rules"]] == ["token:alice"]
    assert [rule["line"] for rule in described["rules"]] == [2]


def test_a_bare_name_holds_a_token_and_a_bare_model_is_its_main(
    hyprstream: Command, edit: Edit
) -> None:
    edit(ALLOW_ALICE + "\n")
    hyprstream("policy", "apply")
    outcome = hyprstream("policy", "check", "alice", "model:qwen3-small", "infer")
    assert outcome.code == 0
    assert "token:alice may infer model:qwen3-small:main" in outcome.out
    assert f"line 1: {ALLOW_ALICE}" in outcome.out
    assert hyprstream("policy", "check", "local:alice", "model:qwen3-small", "infer").code == 1
    assert hyprstream("policy", "check", "anonymous", "model:qwen3-small", "infer").code == 1


def test_a_decision_is_told_as_json(hyprstream: Command) -> None:
    outcome = hyprstream("policy", "check", "alice", "registry", "query", "--json")
    assert outcome.code == 1
    answer = json.loads(outcome.out)
    assert (answer["subject"], answer["resource"]) == ("token:alice", "registry")
    assert (answer["is_allowed"], answer["line"]) == (False, None)


@pytest.mark.parametrize(
    "words",
    [
        ["alice", "registry", "fly"],
        ["alice", "model:a b", "infer"],
        ["alice", "registy", "query"],
        ["alice"],
    ],
)
def test_a_question_that_makes_no_sense_is_bad_usage(hyprstream: Command, words: list[str]) -> None:
    assert hyprstream("policy", "check", *words).code == 2


def test_an_explanation_shows_what_became_of_each_rule(hyprstream: Command, edit: Edit) -> None:
    edit(
        "g, token:alice, medical\n"
        "p, medical, *, *, infer, allow\n"
        "p, token:alice, ws, model:qwen3-small:main, infer, deny\n"
        "p, token:bob, *, *, *, allow\n"
    )
    hyprstream("policy", "apply")
    question = ["alice", "model:qwen3-small", "infer"]
    outcome = hyprstream("policy", "explain", *question)
    assert outcome.code == 0
    assert "token:alice is medical" in outcome.out
    assert re.search(r"^2 .*applies$", outcome.out, re.MULTILINE)
    assert re.search(r"^3 .*not this door$", outcome.out, re.MULTILINE)
    assert "bob" not in outcome.out
    at_websocket = hyprstream("policy", "explain", *question, "--door", "ws", "--json")
    assert at_websocket.code == 1
    assert json.loads(at_websocket.out)["decision"]["line"] == 3


def test_nothing_about_a_user_is_said_too(hyprstream: Command) -> None:
    outcome = hyprstream("policy", "explain", "alice", "registry", "query")
    assert outcome.code == 1
    assert "no rule is about token:alice" in outcome.out


def test_an_edit_is_checked_and_leads_on(hyprstream: Command, edit: Edit) -> None:
    outcome = edit(ALLOW_ALICE + "\n")
    assert outcome.code == 0
    assert "hyprstream policy diff" in outcome.err
    assert "hyprstream policy apply" in outcome.err
    assert hyprstream("policy", "check", "alice", "model:qwen3-small", "infer").code == 1


def test_a_mistake_is_pointed_at(hyprstream: Command, edit: Edit) -> None:
    outcome = edit("# mine\np, token:alice, *, model:a, fly, allow\n")
    assert outcome.code == 2
    assert "line 2" in outcome.err
    excerpt, caret = outcome.err.splitlines()[-2:]
    assert excerpt.endswith("p, token:alice, *, model:a, fly, allow")
    assert caret.index("^") == excerpt.index("fly")
    assert hyprstream("policy", "apply").code == 2
    assert "no rules" in hyprstream("policy", "show").err


def test_an_editor_that_is_not_there_is_no_traceback(
    hyprstream: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITOR", "no-such-editor -w")
    outcome = hyprstream("policy", "edit")
    assert outcome.code == 2
    assert "no-such-editor cannot be started" in outcome.err


def test_an_editor_that_fails_says_so(hyprstream: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", "false")
    assert "exit code 1" in hyprstream("policy", "edit").err


def test_a_diff_is_of_the_draft_against_what_is_running(
    hyprstream: Command, edit: Edit, draft: Path
) -> None:
    assert hyprstream("policy", "diff").out == ""
    edit(ALLOW_ALICE + "\n")
    assert f"\n+{ALLOW_ALICE}\n" in hyprstream("policy", "diff").out
    hyprstream("policy", "apply")
    assert hyprstream("policy", "diff").out == ""
    draft.write_text("# nobody\n")
    assert f"\n-{ALLOW_ALICE}\n" in hyprstream("policy", "diff").out
    assert "hyprstream policy diff" in hyprstream("policy", "show").err
    assert hyprstream("policy", "diff", "--against", "HEAD~5").code == 3


def test_a_diff_of_a_draft_sends_a_terminal_no_commands(hyprstream: Command, edit: Edit) -> None:
    edit("# \x1b[2J\n")
    assert "\x1b" not in hyprstream("policy", "diff").out


def test_an_apply_says_what_came_into_force_and_how_to_undo_it(
    hyprstream: Command, edit: Edit
) -> None:
    edit(ALLOW_ALICE + "\n")
    dry = hyprstream("policy", "apply", "--dry-run")
    assert f"+{ALLOW_ALICE}" in dry.out
    assert "nothing is changed yet" in dry.err
    assert hyprstream("policy", "history").out == ""
    done = hyprstream("policy", "apply", "-m", "alice may infer")
    assert "alice may infer" in done.err
    assert "hyprstream policy rollback" in done.err
    assert "nothing to change" in hyprstream("policy", "apply").err


def test_history_is_a_table_lines_or_json(hyprstream: Command) -> None:
    hyprstream("policy", "apply-template", "local")
    hyprstream("policy", "apply-template", "public-read")
    heading, newest, first = hyprstream("policy", "history").out.splitlines()
    assert heading.split() == ["VERSION", "WHEN", "WHO", "MESSAGE"]
    assert newest.endswith("apply template public-read")
    assert first.endswith("apply template local")
    (line,) = hyprstream("policy", "history", "--oneline", "-n", "1").out.splitlines()
    assert re.fullmatch(r"[0-9a-f]{8} apply template public-read", line)
    assert len(json.loads(hyprstream("policy", "history", "--json").out)) == 2


def test_a_rollback_undoes_a_template(hyprstream: Command) -> None:
    hyprstream("policy", "apply-template", "local")
    assert hyprstream("policy", "check", "local:bob", "registry", "write").code == 0
    dry = hyprstream("policy", "rollback", "--dry-run")
    assert "nothing is changed yet" in dry.err
    assert hyprstream("policy", "check", "local:bob", "registry", "write").code == 0
    assert hyprstream("policy", "rollback").code == 0
    assert hyprstream("policy", "check", "local:bob", "registry", "write").code == 1
    assert hyprstream("policy", "rollback").code == 0
    assert hyprstream("policy", "check", "local:bob", "registry", "write").code == 0


def test_a_terminal_is_asked_before_a_rollback(
    hyprstream: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    hyprstream("policy", "apply-template", "local")
    monkeypatch.setattr("hyprstream.cli.policy._is_interactive", lambda: True)
    assert hyprstream("policy", "rollback", stdin="n\n").code == 1
    assert hyprstream("policy", "check", "local:bob", "registry", "write").code == 0
    assert hyprstream("policy", "rollback", stdin="y\n").code == 0
    assert hyprstream("policy", "check", "local:bob", "registry", "write").code == 1
    assert hyprstream("policy", "rollback", "--yes").code == 0


def test_a_draft_in_a_rollbacks_way_is_kept(hyprstream: Command, edit: Edit, draft: Path) -> None:
    hyprstream("policy", "apply-template", "local")
    edit(ALLOW_ALICE + "\n")
    refused = hyprstream("policy", "rollback")
    assert refused.code == 1
    assert "hyprstream policy rollback HEAD" in refused.err
    assert draft.read_text() == ALLOW_ALICE + "\n"
    assert "the draft says what is in force" in hyprstream("policy", "rollback", "HEAD").err
    assert hyprstream("policy", "rollback").code == 0


def test_a_template_says_what_it_granted_and_how_to_undo_it(hyprstream: Command) -> None:
    dry = hyprstream("policy", "apply-template", "local", "--dry-run")
    assert "+p, local:*, *, *, *, allow" in dry.out
    assert hyprstream("policy", "history").out == ""
    done = hyprstream("policy", "apply-template", "local")
    assert "+p, local:*, *, *, *, allow" in done.out
    assert "hyprstream policy rollback" in done.err
    again = hyprstream("policy", "apply-template", "local")
    assert (again.code, again.out) == (0, "")
    assert hyprstream("policy", "apply-template", "nothing").code == 3


def test_templates_are_listed_with_what_they_grant(hyprstream: Command) -> None:
    out = hyprstream("policy", "list-templates").out
    assert {"local", "public-inference", "public-read"} <= {
        line.split()[0] for line in out.splitlines()
    }
    templates = json.loads(hyprstream("policy", "list-templates", "--json").out)
    assert all(template["summary"] for template in templates)


def test_who_may_not_read_the_policy_is_denied(
    hyprstream: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    hyprstream("policy", "apply-template", "public-read")
    run_as("somebody", monkeypatch)
    for words in (["show"], ["check", "alice", "registry", "query"], ["apply-template", "local"]):
        assert hyprstream("policy", *words).code == 4


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("registry", "registry"),
        ("registry:abc", "registry:abc"),
        ("model:qwen3", "model:qwen3:main"),
        ("model:qwen3:lora/medical", "model:qwen3:lora/medical"),
        ("session:x:y", "session:x:y"),
        ("model", "model"),
        ("token:*", "token:*"),
    ],
)
def test_a_resource_is_read_as_a_user_means_it(text: str, meant: str) -> None:
    assert str(parse_resource(text)) == meant


def test_a_pattern_is_no_model() -> None:
    with pytest.raises(Invalid, match="model reference"):
        parse_resource("model:*")


@pytest.mark.parametrize("editor", ["nano 'x", " "])
def test_an_editor_that_cannot_be_read_is_one_line_or_vi(
    hyprstream: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, editor: str
) -> None:
    monkeypatch.setenv("VISUAL", editor)
    monkeypatch.setattr("subprocess.run", _no_such_program)
    outcome = hyprstream("policy", "edit")
    assert outcome.code == 2
    assert "hyprstream policy edit" in outcome.err


def _no_such_program(command: list[str], **_options: object) -> None:
    raise FileNotFoundError(2, "No such file", command[0])


def test_a_message_gives_the_terminal_no_commands(hyprstream: Command, edit: Edit) -> None:
    edit(ALLOW_ALICE)
    said = hyprstream("policy", "apply", "-m", "\x1b[31mred").err
    shown = hyprstream("policy", "history").out + hyprstream("policy", "history", "--oneline").out
    assert "red" in said
    assert "red" in shown
    assert "\x1b" not in said + shown + hyprstream("policy", "show").err


def test_a_draft_that_is_no_text_hides_nothing_and_can_be_given_up(
    hyprstream: Command, draft: Path
) -> None:
    hyprstream("policy", "apply-template", "local")
    sound = draft.read_bytes()
    draft.write_bytes(b"p, local:*, *, *, *, allow\n\xff")
    shown = hyprstream("policy", "show")
    assert (shown.code, "the draft says something else" in shown.err) == (0, True)
    assert hyprstream("policy", "diff").code == 0
    refused = hyprstream("policy", "apply")
    assert (refused.code, "rollback HEAD" in refused.err) == (2, True)
    assert hyprstream("policy", "rollback", "HEAD").code == 0
    assert draft.read_bytes() == sound


def test_a_broken_version_is_not_taken_for_one_that_denies(
    hyprstream: Command, draft: Path
) -> None:
    hyprstream("policy", "apply-template", "local")
    draft.write_text("p, broken\n")
    git = ["git", "-C", str(draft.parent), "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([*git, "commit", "--quiet", "--all", "-m", "by hand"], check=True)
    outcome = hyprstream("policy", "check", "local:alice", "registry", "query")
    assert (outcome.code, outcome.out) == (2, "")
    assert "line 1, column 10" in outcome.err
