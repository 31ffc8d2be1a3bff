"""What a scenario found: a table, goals with verdicts, remarks, raw numbers. Values only; knows no terminal or file."""

from dataclasses import dataclass, field

from hyprstream.bench.machine import Machine
from hyprstream.bench.statistics import Estimate


@dataclass(frozen=True, slots=True)
class Goal:
    """A promise and what was measured. It is kept only if the whole confidence interval is on its good side."""

    claim: str
    measured: Estimate | None
    """None if no comparison was possible; the notes say why."""
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""

    @property
    def is_met(self) -> bool:
        assert (self.at_least is None) != (self.at_most is None), "a goal is one bound"
        if self.measured is None:
            return False
        if self.at_least is not None:
            return self.measured.low >= self.at_least
        assert self.at_most is not None
        return self.measured.high <= self.at_most

    @property
    def bound(self) -> str:
        """As people write it: `≥ 1.15`, `≤ 100 ms`."""
        sign, limit = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{sign} {limit:g} {self.unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Result:
    """One scenario's outcome."""

    scenario: str
    question: str
    """What it answers, in one line."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader must know to believe the numbers: what was refused, what differed, what was noisy."""
    raw: tuple[dict[str, object], ...] = ()
    """Every single measurement, JSON values only."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything of one run."""

    machine: Machine
    options: dict[str, object]
    results: tuple[Result, ...] = field(default=())

    @property
    def are_goals_met(self) -> bool:
        return all(goal.is_met for result in self.results for goal in result.goals)
