"""How the policy is read and changed: draft, running, history."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hyprstream.core.errors import Conflict, Denied, Invalid, NotFound, Unavailable
from hyprstream.core.principal import Action, Door, Principal, Resource
from hyprstream.registry.history import GitTextHistory
from hyprstream.services.policy import PolicyService, PolicyTools
from support.policy_tools import ME, tools_in

ALICE = Principal("token:alice")
MODEL = Resource("model", "smollm2:main")
ALLOW_ALICE = "p, token:alice, *, model:smollm2, infer, allow\n"


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[PolicyTools]:
    with tools_in(tmp_path / "data") as tools:
        yield tools


@pytest.fixture
def service(tools: PolicyTools) -> PolicyService:
    return tools.policy


def draft(service: PolicyService, text: str) -> None:
    service.open_draft(ME).write_text(text)


def apply(service: PolicyService, text: str) -> None:
    draft(service, text)
    assert service.apply(ME).version is not None


def test_a_fresh_directory_has_no_rules_and_denies(service: PolicyService) -> None:
    overview = service.show(ME)
    assert (overview.version, overview.text, overview.has_draft) == (None, "", False)
    assert overview.rules.rules == ()
    assert not service.check(ME, ALICE, Action.INFER, MODEL).is_allowed


def test_nobody_else_reads_or_changes_a_fresh_policy(service: PolicyService) -> None:
    with pytest.raises(Denied):
        service.show(Principal("local:somebody", Door.CLI))
    with pytest.raises(Denied):
        service.apply_template(Principal(ME.subject.replace("local:", "token:")), "local")


def test_a_draft_changes_nothing_until_it_is_applied(service: PolicyService) -> None:
    draft(service, ALLOW_ALICE)
    assert not service.check(ME, ALICE, Action.INFER, MODEL).is_allowed
    change = service.apply(ME, "alice may infer")
    assert change.is_done
    assert change.version is not None
    assert change.version.message.strip() == "alice may infer"
    decision = service.check(ME, ALICE, Action.INFER, MODEL)
    assert (decision.is_allowed, decision.line) == (True, 1)


def test_a_dry_run_shows_the_change_and_does_not_make_it(service: PolicyService) -> None:
    draft(service, ALLOW_ALICE)
    change = service.apply(ME, is_dry_run=True)
    assert not change.is_done
    assert f"+{ALLOW_ALICE.strip()}" in change.diff
    assert service.show(ME).version is None


def test_a_draft_with_a_mistake_never_comes_into_force(service: PolicyService) -> None:
    apply(service, ALLOW_ALICE)
    draft(service, "p, token:alice, *, model:smollm2, infer\n")
    with pytest.raises(Invalid, match="line 1"):
        service.apply(ME)
    assert service.check(ME, ALICE, Action.INFER, MODEL).is_allowed
    assert len(service.history(ME, 10)) == 1


def test_applying_what_is_in_force_makes_no_version(service: PolicyService) -> None:
    apply(service, ALLOW_ALICE)
    change = service.apply(ME)
    assert change.is_empty
    assert not change.is_done
    assert len(service.history(ME, 10)) == 1


def test_a_new_draft_explains_the_format_and_is_sound(service: PolicyService) -> None:
    text = service.open_draft(ME).read_text()
    assert text.startswith("#")
    assert not service.validate(ME).is_empty


def test_an_existing_draft_is_left_as_it_is(service: PolicyService) -> None:
    draft(service, "# mine\n")
    assert service.open_draft(ME).read_text() == "# mine\n"


def test_the_draft_is_compared_with_any_version(service: PolicyService) -> None:
    apply(service, ALLOW_ALICE)
    apply(service, "# nobody\n")
    draft(service, "# soon\n")
    assert {"-# nobody", "+# soon"} <= set(service.diff(ME).diff)
    assert {f"-{ALLOW_ALICE.strip()}", "+# soon"} <= set(service.diff(ME, "HEAD~1").diff)
    with pytest.raises(NotFound):
        service.diff(ME, "HEAD~9")


def test_history_names_the_newest_first(service: PolicyService) -> None:
    assert service.history(ME, 10) == []
    apply(service, ALLOW_ALICE)
    service.apply_template(ME, "local")
    assert [v.message.strip() for v in service.history(ME, 1)] == ["apply template local"]
    assert len(service.history(ME, 10)) == 2


def test_a_rollback_puts_the_older_text_in_force_as_a_new_version(service: PolicyService) -> None:
    apply(service, ALLOW_ALICE)
    apply(service, "# nobody\n")
    change = service.rollback(ME)
    assert change.is_done
    assert service.text(ME) == ALLOW_ALICE
    assert service.check(ME, ALICE, Action.INFER, MODEL).is_allowed
    assert len(service.history(ME, 10)) == 3
    service.rollback(ME)
    assert service.text(ME) == "# nobody\n"


def test_a_version_is_named_by_its_id_too(service: PolicyService) -> None:
    apply(service, ALLOW_ALICE)
    apply(service, "# nobody\n")
    apply(service, "# nobody at all\n")
    first = service.history(ME, 3)[-1]
    service.rollback(ME, first.id[:8])
    assert service.text(ME) == ALLOW_ALICE


def test_before_the_first_version_everything_is_denied(service: PolicyService) -> None:
    apply(service, ALLOW_ALICE)
    service.rollback(ME)
    assert service.text(ME) == ""
    assert not service.check(ME, ALICE, Action.INFER, MODEL).is_allowed


@pytest.mark.parametrize("revision", ["HEAD~2", "deadbeef", "nothing", "-x", "--all"])
def test_a_version_that_is_not_there_is_not_found(service: PolicyService, revision: str) -> None:
    apply(service, ALLOW_ALICE)
    with pytest.raises((NotFound, Invalid)):
        service.rollback(ME, revision)
    assert service.text(ME) == ALLOW_ALICE


def test_without_any_version_there_is_nothing_to_roll_back(service: PolicyService) -> None:
    with pytest.raises(NotFound):
        service.rollback(ME)


@pytest.mark.parametrize("change", ["rollback", "template"])
def test_a_draft_that_was_never_in_force_is_not_lost(service: PolicyService, change: str) -> None:
    apply(service, ALLOW_ALICE)
    draft(service, "# unfinished\n")
    with pytest.raises(Conflict, match="draft"):
        if change == "rollback":
            service.rollback(ME)
        else:
            service.apply_template(ME, "local")
    assert service.open_draft(ME).read_text() == "# unfinished\n"


def test_rolling_back_to_head_gives_up_the_draft(service: PolicyService) -> None:
    apply(service, ALLOW_ALICE)
    draft(service, "# unfinished\n")
    assert not service.rollback(ME, "HEAD", is_dry_run=True).is_done
    assert service.show(ME).has_draft
    change = service.rollback(ME, "HEAD")
    assert (change.is_done, change.version) == (True, None)
    assert not service.show(ME).has_draft
    assert len(service.history(ME, 10)) == 1


def test_an_untouched_new_draft_does_not_stand_in_a_templates_way(service: PolicyService) -> None:
    service.open_draft(ME)
    assert service.apply_template(ME, "local").is_done


def test_a_template_is_added_once_and_keeps_what_was_there(service: PolicyService) -> None:
    apply(service, ALLOW_ALICE)
    service.apply_template(ME, "local")
    assert service.apply_template(ME, "local").is_empty
    assert service.check(ME, ALICE, Action.INFER, MODEL).is_allowed
    assert service.check(ME, Principal("local:bob"), Action.WRITE, MODEL).is_allowed


def test_a_template_nobody_knows_is_not_found(service: PolicyService) -> None:
    with pytest.raises(NotFound):
        service.apply_template(ME, "everything")


def test_every_template_says_what_it_grants(service: PolicyService) -> None:
    found = {template.name: template.summary for template in service.templates(ME)}
    assert {"local", "public-inference", "public-read"} <= set(found)
    assert all(found.values())


def test_an_explanation_holds_every_rule_about_whoever_asks(service: PolicyService) -> None:
    apply(
        service,
        "g, token:alice, medical\n"
        "p, medical, *, model:qwen3, infer, allow\n"
        "p, token:alice, ws, model:smollm2, infer, deny\n"
        "p, token:bob, *, *, *, allow\n"
        "p, *, *, registry, query, allow\n",
    )
    found = service.explain(ME, ALICE, Action.INFER, Resource("model", "qwen3:main"))
    assert found.decision.is_allowed
    assert found.decision.line == 2
    assert found.names == ("token:alice", "medical")
    assert [(c.rule.line, c.misses) for c in found.candidates] == [
        (2, ()),
        (3, ("door", "resource")),
        (5, ("resource", "action")),
    ]


def test_a_version_broken_behind_our_back_is_pointed_at_and_rolled_back(
    service: PolicyService,
) -> None:
    apply(service, ALLOW_ALICE)
    draft(service, "p, token:alice\n")
    GitTextHistory(service.open_draft(ME).parent, "policy.csv").commit("by hand")
    with pytest.raises(Invalid, match="line 1"):
        service.show(ME)
    assert service.text(ME) == "p, token:alice\n"
    assert service.rollback(ME).is_done
    assert service.check(ME, ALICE, Action.INFER, MODEL).is_allowed


def test_a_template_that_could_not_be_committed_leaves_no_draft(
    service: PolicyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: GitTextHistory, _message: str) -> None:
        raise Unavailable("there is no git program")

    with monkeypatch.context() as patch:
        patch.setattr(GitTextHistory, "commit", refuse)
        with pytest.raises(Unavailable):
            service.apply_template(ME, "local")
    assert not service.show(ME).has_draft
    assert service.apply_template(ME, "public-read").is_done
