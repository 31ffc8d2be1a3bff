"""Every row of `decisions.yaml`, decided."""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

from hyprstream.core.principal import Action, Door, Principal, Resource, Scope
from hyprstream.policy import templates
from hyprstream.policy.policy import CasbinPolicy
from support.memory_history import MemoryHistory

TABLE = yaml.safe_load(Path(__file__).with_name("decisions.yaml").read_text("utf-8"))
OWNER = "local:owner"


@dataclass(frozen=True, slots=True)
class Row:
    policy: str
    subject: str
    door: str
    scopes: list[str] | None
    resource: str
    action: str
    expected: str
    why: str

    @property
    def principal(self) -> Principal:
        scopes = None if self.scopes is None else tuple(map(Scope.parse, self.scopes))
        return Principal(self.subject, Door(self.door), scopes)

    @property
    def request(self) -> tuple[Principal, Action, Resource]:
        kind, _, name = self.resource.partition(":")
        return self.principal, Action(self.action), Resource(kind, name or None)

    def __str__(self) -> str:
        limit = "" if self.scopes is None else f" [{' '.join(self.scopes)}]"
        return f"{self.policy}: {self.subject}@{self.door}{limit} {self.action} {self.resource}: {self.why}"


ROWS = [Row(*row) for row in TABLE["decisions"]]


@cache
def policy(name: str) -> CasbinPolicy:
    described = TABLE["policies"][name]
    text = described.get("text", "")
    for template in described.get("templates", ()):
        text = templates.apply(text, template)
    found = CasbinPolicy(MemoryHistory(text), owner=OWNER)
    assert found.problem is None
    return found


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_row_is_decided_as_the_rules_mean_it(row: Row) -> None:
    decision = policy(row.policy).explain(*row.request)
    assert decision.is_allowed is (row.expected == "allow"), decision
    assert policy(row.policy).allows(*row.request) is decision.is_allowed


def test_the_table_is_large_and_says_nothing_twice() -> None:
    assert len(ROWS) >= 150
    twice = [
        asked
        for asked, n in Counter((row.policy, row.request, str(row.scopes)) for row in ROWS).items()
        if n > 1
    ]
    assert not twice


def test_the_table_asks_for_every_action_at_every_door_of_every_policy() -> None:
    assert {row.action for row in ROWS} == set(Action)
    assert {row.door for row in ROWS} == set(Door)
    assert {row.policy for row in ROWS} == set(TABLE["policies"])
    assert {row.expected for row in ROWS} == {"allow", "deny"}
