"""Owners are served in turn; within one owner, whoever came first is served first."""

import itertools
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from hyprstream.core.generation import GenerationParams, SamplingParams
from hyprstream.engine.engine import Engine
from hyprstream.engine.scripted import ScriptedBackend
from hyprstream.engine.sequence import Sequence

GREEDY = GenerationParams(SamplingParams(temperature=0))
OWNERS = ["alice", "bob", "carol", ""]


class Line:
    """An engine whose clock ticks whenever it is asked, so that no two slots are given at the same time."""

    def __init__(self, n_slots: int) -> None:
        self.clock = itertools.count(1.0)
        self.engine = Engine(ScriptedBackend(n_slots=n_slots), lambda: next(self.clock))
        self.came: dict[Sequence, float] = {}

    def add(self, owner: str, n: int = 2, leader: Sequence | None = None) -> Sequence:
        job = f"job {len(self.came)}" if leader is None else leader.job
        it = Sequence([1, 2, 3], GREEDY, n, seed=0, job=job, owner=owner, leader=leader)
        self.came[it] = next(self.clock)
        self.engine.add(it)
        return it

    def leave(self, it: Sequence) -> None:
        self.engine.remove(it)

    def run(self) -> None:
        while self.engine.has_work:
            self.engine.step()
            self.engine.scheduler.check_integrity()

    @property
    def served(self) -> list[Sequence]:
        """Everybody who was given a slot, in that order."""
        return sorted((it for it in self.came if it.leased is not None), key=leased)


def leased(it: Sequence) -> float:
    assert it.leased is not None
    return it.leased


def test_sixty_jobs_of_one_owner_delay_another_by_one_turn() -> None:
    line = Line(n_slots=1)
    for _ in range(60):
        line.add("alice")
    line.engine.step()
    bobs = line.add("bob")
    line.run()
    assert line.served.index(bobs) == 2, "one of alice's ran already, and one has its turn"


def test_sixty_owners_are_served_one_after_another() -> None:
    line = Line(n_slots=2)
    for _ in range(3):
        for i in range(60):
            line.add(f"owner {i}")
    line.run()
    turns = [it.owner for it in line.served]
    assert turns == [f"owner {i}" for i in range(60)] * 3


def test_an_owner_whose_choices_wait_for_their_prompt_keeps_its_turn() -> None:
    line = Line(n_slots=2)
    leader = line.add("alice", n=9)
    choice = line.add("alice", leader=leader)
    others = [line.add("bob", n=9) for _ in range(3)]
    line.run()
    assert line.served == [leader, others[0], choice, *others[1:]]


@dataclass
class Story:
    """What happens, in order: somebody comes, the n-th who came leaves, or some steps are made."""

    n_slots: int
    events: list[tuple[str, str | int]] = field(default_factory=list[tuple[str, str | int]])


def stories(owners: list[str]) -> st.SearchStrategy[Story]:
    event = (
        st.tuples(st.just("come"), st.sampled_from(owners))
        | st.tuples(st.just("leave"), st.integers(0, 40))
        | st.tuples(st.just("step"), st.integers(1, 6))
    )
    return st.builds(Story, st.integers(1, 3), st.lists(event, max_size=60))


def told(story: Story) -> Line:
    line = Line(story.n_slots)
    for what, value in story.events:
        if what == "come":
            line.add(str(value), n=1 + len(line.came) % 4)
        elif what == "leave":
            for it in list(line.came)[int(value) : int(value) + 1]:
                line.leave(it)
        else:
            for _ in range(int(value)):
                line.engine.step()
    line.run()
    return line


@given(stories(OWNERS))
def test_while_an_owner_waits_no_other_is_served_twice(story: Story) -> None:
    line = told(story)
    for owner in OWNERS:
        since = 0.0
        for it in [it for it in line.served if it.owner == owner]:
            since = max(since, line.came[it])
            before = [o.owner for o in line.served if since < leased(o) < leased(it)]
            assert len(before) == len(set(before)), f"{owner} was passed over twice: {before}"
            since = leased(it)


@given(stories(OWNERS))
def test_everybody_who_stays_is_served(story: Story) -> None:
    line = told(story)
    assert all(it.finish is not None or it.is_aborted for it in line.came)


@given(stories(OWNERS))
def test_an_owner_is_served_in_order_of_arrival(story: Story) -> None:
    line = told(story)
    for owner in OWNERS:
        served = [line.came[it] for it in line.served if it.owner == owner]
        assert served == sorted(served)


@given(stories(["alice"]))
def test_with_one_owner_the_order_is_that_of_arrival(story: Story) -> None:
    line = told(story)
    assert line.served == [it for it in line.came if it.leased is not None]
