"""How long the policy takes to decide, beside Casbin alone with every rule. Knows no server and no model.

Both sides answer the same questions, and their answers are compared: a quick wrong answer is worth nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from hyprstream.bench.bench import Bench
from hyprstream.bench.results import Goal, Result
from hyprstream.bench.statistics import estimate, median, percentile
from hyprstream.core.errors import BackendError
from hyprstream.core.principal import Action, Door, Resource
from hyprstream.policy.policy import RulesInForce, plain_enforcer
from hyprstream.policy.rules import parse

QUESTION = "How long does a decision take, and does it grow with the policy?"
COLUMNS = ("rules", "decision", "n", "µs p50", "µs p99", "µs max")
N_RULES = (10, 1_000, 10_000)
MOST_CACHED_US = 50.0
MOST_COLD_US = 1_000.0
"""Goals for the p99 with the most rules."""
N_QUESTIONS, N_QUICK_QUESTIONS = 1_000, 100
N_PLAIN, N_QUICK_PLAIN = 20, 3
"""Questions to Casbin alone, which takes milliseconds for each."""
N_USERS, N_TEAMS = 100, 20


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of decision with so many rules."""

    n_rules: int
    decision: str
    """`cached`, `cold`, or `plain casbin`."""
    microseconds: tuple[float, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """As the table shows it."""
        found = self.microseconds
        times = (median(found), percentile(found, 99), max(found))
        return str(self.n_rules), self.decision, str(len(found)), *(f"{t:.1f}" for t in times)


@dataclass(frozen=True, slots=True)
class Asked:
    """One question."""

    subject: str
    resource: Resource


def measure(n_rules: int, *, n_questions: int, n_plain: int) -> tuple[Row, ...]:
    """Cached and cold decisions and those of Casbin alone, with so many rules.

    Raises:
        BackendError: the two sides do not decide alike.
    """
    rules = parse(policy_text(n_rules))
    in_force, plain = RulesInForce(rules), plain_enforcer(rules)
    asked = [question(i) for i in range(n_questions)]
    names = [(each.subject, *rules.roles_of(each.subject)) for each in asked]

    def decide(i: int) -> bool:
        each = asked[i]
        return in_force.decide(each.subject, Door.HTTP, Action.INFER, each.resource).is_allowed

    def decide_plainly(i: int) -> bool:
        request = names[i], Door.HTTP.value, str(asked[i].resource), Action.INFER.value
        return bool(plain.enforce(*request))

    cold, answers = _timed(decide, n_questions)
    cached, _ = _timed(decide, n_questions)
    slow, plain_answers = _timed(decide_plainly, n_plain)
    if answers[:n_plain] != plain_answers:
        raise BackendError(f"with {n_rules} rules the index and Casbin alone decide differently")
    return (
        Row(n_rules, "cached", cached),
        Row(n_rules, "cold", cold),
        Row(n_rules, "plain casbin", slow),
    )


async def run(bench: Bench) -> Result:
    """Every size of policy. No server is started: a decision is a function call."""
    is_quick = bench.options.is_quick
    n_questions = N_QUICK_QUESTIONS if is_quick else N_QUESTIONS
    n_plain = N_QUICK_PLAIN if is_quick else N_PLAIN
    rows = [
        row
        for n_rules in N_RULES
        for row in measure(n_rules, n_questions=n_questions, n_plain=n_plain)
    ]
    most = {row.decision: row for row in rows if row.n_rules == max(N_RULES)}
    return Result(
        "policy",
        QUESTION,
        COLUMNS,
        rows=tuple(row.cells for row in rows),
        goals=(
            _goal(most["cached"], MOST_CACHED_US),
            _goal(most["cold"], MOST_COLD_US),
        ),
        notes=("a cold decision is the first of its question; Casbin decides it too",),
        raw=tuple(
            {
                "n_rules": row.n_rules,
                "decision": row.decision,
                "microseconds": list(row.microseconds),
            }
            for row in rows
        ),
    )


def policy_text(n_rules: int) -> str:
    """A policy of users, teams and patterns, and of as many denials as there are in one that grew."""
    kinds: tuple[Callable[[int], str], ...] = (
        lambda i: f"p, token:u{i % N_USERS}, *, model:m{i}, infer, allow",
        lambda i: f"p, team{i % N_TEAMS}, *, model:m{i}*, *, allow",
        lambda i: f"p, *, http, model:m{i}:secret, infer, deny",
        lambda i: f"p, local:*, cli, model:m{i}, write, allow",
    )
    lines = [kinds[i % len(kinds)](i) for i in range(n_rules)]
    roles = [f"g, token:u{user}, team{user % N_TEAMS}" for user in range(N_USERS)]
    return "\n".join(lines + roles) + "\n"


def question(i: int) -> Asked:
    """The same for the same `i`, and a new model for every one: some answers are yes and some no."""
    version = "secret" if i % 3 == 0 else "main"
    return Asked(f"token:u{i % N_USERS}", Resource("model", f"m{i}:{version}"))


def _timed(decide: Callable[[int], bool], n: int) -> tuple[tuple[float, ...], list[bool]]:
    microseconds: list[float] = []
    answers: list[bool] = []
    for i in range(n):
        start = time.perf_counter_ns()
        answers.append(decide(i))
        microseconds.append((time.perf_counter_ns() - start) / 1e3)
    return tuple(microseconds), answers


def _goal(row: Row, most: float) -> Goal:
    claim = f"p99 of a {row.decision} decision with {row.n_rules} rules"
    return Goal(claim, estimate(row.microseconds, 99), at_most=most, unit="µs")
