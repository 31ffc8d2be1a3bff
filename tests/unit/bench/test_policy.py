"""The policy's scenario: what is asked, and that both sides were asked the same."""

import pytest

from hyprstream.bench.scenarios import policy
from hyprstream.core.errors import BackendError
from hyprstream.core.principal import Action, Decision, Door
from hyprstream.policy.policy import RulesInForce
from hyprstream.policy.rules import parse


@pytest.mark.parametrize("n_rules", policy.N_RULES)
def test_a_policy_has_as_many_rules_as_it_is_measured_with(n_rules: int) -> None:
    assert len(parse(policy.policy_text(n_rules)).rules) == n_rules


def test_the_questions_are_answered_with_yes_and_with_no() -> None:
    in_force = RulesInForce(parse(policy.policy_text(100)))
    asked = [policy.question(i) for i in range(100)]
    answers = {
        in_force.decide(each.subject, Door.HTTP, Action.INFER, each.resource).is_allowed
        for each in asked
    }
    assert answers == {True, False}


def test_a_result_has_three_rows_for_every_size_and_both_goals() -> None:
    rows = policy.measure(10, n_questions=20, n_plain=20)
    assert [(row.n_rules, row.decision, len(row.microseconds)) for row in rows] == [
        (10, "cached", 20),
        (10, "cold", 20),
        (10, "plain casbin", 20),
    ]
    assert all(len(row.cells) == len(policy.COLUMNS) for row in rows)


def test_a_side_that_decides_otherwise_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def allow(*_: object) -> Decision:
        return Decision(True, "always")

    monkeypatch.setattr(RulesInForce, "decide", allow)
    with pytest.raises(BackendError, match="decide differently"):
        policy.measure(10, n_questions=20, n_plain=20)
