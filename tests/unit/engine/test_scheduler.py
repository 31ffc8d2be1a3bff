"""Who computes what next, and that nothing is lost on the way."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hyprstream.core.errors import BackendError
from hyprstream.core.generation import FinishReason, GenerationParams, SamplingParams
from hyprstream.engine.engine import Commit, Engine
from hyprstream.engine.scripted import ScriptedBackend
from hyprstream.engine.sequence import Sequence

GREEDY = GenerationParams(SamplingParams(temperature=0))


def sequence(
    prompt: str, n: int = 4, *, job: str = "", owner: str = "", leader: Sequence | None = None
) -> Sequence:
    return Sequence(
        list(prompt.encode()),
        GREEDY,
        max_tokens=n,
        seed=0,
        job=job or prompt,
        owner=owner,
        leader=leader,
    )


def engine(**options: object) -> Engine:
    ticks = iter(range(10**9))
    return Engine(ScriptedBackend(**options), lambda: 0.01 * next(ticks))  # type: ignore[arg-type]


def run(engine: Engine, *, until: Callable[[], bool] | None = None) -> list[list[Commit]]:
    steps: list[list[Commit]] = []
    while engine.has_work and not (until and until()):
        steps.append(engine.step())
        engine.scheduler.check_integrity()
        assert len(steps) < 10_000, "the engine makes progress"
    return steps


def alone(prompt: str, n: int = 4) -> list[int]:
    """What a prompt gives with the engine to itself."""
    single, it = engine(n_slots=1), sequence(prompt, n)
    single.add(it)
    run(single)
    return it.tokens


def test_batched_and_one_at_a_time_decoding_agree() -> None:
    together = engine(n_slots=4)
    sequences = [sequence(f"prompt number {i}", n=8) for i in range(9)]
    for it in sequences:
        together.add(it)
    run(together)
    assert [s.tokens for s in sequences] == [alone(f"prompt number {i}", 8) for i in range(9)]


def test_a_sequence_ends_at_its_limit_and_gives_its_slot_back() -> None:
    it, eng = sequence("abc", n=3), engine()
    eng.add(it)
    run(eng)
    assert (it.finish, it.n_generated, eng.scheduler.slots.n_busy) == (FinishReason.LENGTH, 3, 0)


def test_a_sequence_ends_when_its_slot_is_full() -> None:
    it, eng = sequence("abcdef", n=100), engine(n_ctx=8)
    eng.add(it)
    run(eng)
    assert (it.finish, it.n_tokens) == (FinishReason.LENGTH, 8)


def test_a_sequence_ends_at_an_end_token() -> None:
    it, eng = sequence("abc", n=100), engine(reply=lambda _: "hi")
    eng.add(it)
    run(eng)
    assert (it.finish, it.n_generated) == (FinishReason.STOP, 3)


def test_slots_are_given_in_order_of_arrival() -> None:
    eng = engine(n_slots=2)
    sequences = [sequence(f"p{i}") for i in range(5)]
    for it in sequences:
        eng.add(it)
    finished: list[Sequence] = []
    while eng.has_work:
        finished += [c.sequence for c in eng.step() if c.sequence.finish]
    assert finished == sequences


def test_a_long_prompt_never_stalls_others_for_more_than_one_chunk() -> None:
    eng = engine(n_slots=2, n_ctx=4096)
    talker = sequence("hello", n=2000)
    eng.add(talker)
    run(eng, until=lambda: talker.n_generated > 3)
    eng.add(newcomer := sequence("x" * 3000, n=1))
    steps = run(eng, until=lambda: newcomer.finish is not None)
    silent = [not any(c.sequence is talker for c in step) for step in steps]
    assert not any(a and b for a, b in itertools.pairwise(silent))
    assert newcomer.finish is FinishReason.LENGTH


def test_a_deep_prompt_takes_large_steps_only_while_nobody_waits_for_it() -> None:
    backend = ScriptedBackend(n_slots=2, n_ctx=8192, n_batch=512)
    eng = Engine(backend, lambda: 0.005 * backend.n_decoded)
    eng.add(lone := sequence("x" * 3000, n=1))
    run(eng, until=lambda: lone.n_computed >= 600)
    before = lone.n_computed
    eng.step()
    assert lone.n_computed - before == 64
    talker = sequence("hello", n=2000)
    eng.add(talker)
    run(eng, until=lambda: talker.n_generated > 3)
    before = lone.n_computed
    run(eng, until=lambda: lone.n_computed > before)
    assert lone.n_computed - before < 64


def test_prompts_that_arrive_together_advance_in_turn() -> None:
    eng = engine(n_slots=2, n_ctx=4096)
    long, short = sequence("l" * 2000, n=1), sequence("s" * 60, n=1)
    eng.add(long)
    eng.add(short)
    run(eng, until=lambda: short.finish is not None)
    assert long.n_computed < 500


def test_choices_of_one_prompt_share_its_prefill() -> None:
    eng = engine(n_slots=3)
    prompt = "a prompt of thirty characters.."
    leader = sequence(prompt, job="job")
    others = [sequence(prompt, job="job", leader=leader) for _ in range(4)]
    for it in (leader, *others):
        eng.add(it)
    run(eng)
    assert {tuple(s.tokens) for s in others} == {tuple(alone(prompt))}
    assert [s.n_cached for s in others] == [len(prompt) - 1] * 4


@pytest.mark.parametrize("limits", [{"can_copy": False}, {"can_truncate": False}])
def test_a_backend_that_cannot_go_back_computes_again_with_the_same_result(
    limits: dict[str, bool],
) -> None:
    eng = engine(n_slots=2, **limits)
    leader = sequence("the same prompt", job="job")
    others = [sequence("the same prompt", job="job", leader=leader) for _ in range(3)]
    for it in (leader, *others):
        eng.add(it)
    run(eng)
    assert {tuple(s.tokens) for s in (leader, *others)} == {tuple(alone("the same prompt"))}


def test_jobs_never_share_what_was_computed() -> None:
    eng = engine(n_slots=1)
    first, second = sequence("the same prompt", job="a"), sequence("the same prompt", job="b")
    for it in (first, second):
        eng.add(it)
    run(eng)
    assert second.n_cached == 0


def test_a_choice_whose_leader_left_computes_the_prompt_itself() -> None:
    eng = engine(n_slots=2)
    leader = sequence("the same prompt", job="job")
    other = sequence("the same prompt", job="job", leader=leader)
    eng.add(leader)
    eng.add(other)
    eng.remove(leader)
    run(eng)
    assert other.tokens == alone("the same prompt")


def test_deep_and_shallow_sequences_are_computed_apart_when_padding_costs_more() -> None:
    eng = engine(n_slots=4, n_ctx=8192)
    costs = eng.scheduler.costs
    costs.observe_prefill(100, 0, 200.0)
    costs.observe_prefill(100, 4096, 500.0)
    for n, ms in ((1, 6.0), (3, 15.0), (4, 17.0)):
        costs.observe_decode(n, 0, ms)
    shallow = [sequence(f"s{i}", n=400) for i in range(3)]
    deep = sequence("d" * 4000, n=400)
    for it in (*shallow, deep):
        eng.add(it)
    run(eng, until=lambda: not deep.is_prefilling)
    sizes = [len(step) for step in [eng.step() for _ in range(4)]]
    assert sizes == [3, 1, 3, 1]


def test_a_failed_step_loses_the_running_and_keeps_the_waiting() -> None:
    backend = ScriptedBackend(n_slots=1)
    eng = Engine(backend, lambda: 0.0)
    running, waiting = sequence("running"), sequence("waiting")
    eng.add(running)
    eng.add(waiting)
    eng.step()
    backend.fail_next = BackendError("boom")
    with pytest.raises(BackendError, match="boom"):
        eng.step()
    assert eng.recover() == [running]
    run(eng)
    assert waiting.tokens == alone("waiting")


class EngineMachine(RuleBasedStateMachine):
    """Arrivals, departures, stops and failures in any order: whoever stays gets the text it would get alone."""

    @initialize(n_slots=st.integers(1, 4), can_copy=st.booleans(), can_truncate=st.booleans())
    def start(self, n_slots: int, can_copy: bool, can_truncate: bool) -> None:
        self.backend = ScriptedBackend(
            n_slots=n_slots,
            n_ctx=64,
            n_batch=16,
            can_copy=can_copy,
            can_truncate=can_truncate,
        )
        ticks = iter(range(10**9))
        self.engine = Engine(self.backend, lambda: 0.003 * next(ticks))
        self.live: list[Sequence] = []
        self.lost: list[Sequence] = []

    @rule(
        prompt=st.text("xyz", min_size=1, max_size=40),
        n=st.integers(1, 12),
        n_choices=st.integers(1, 3),
        job=st.sampled_from("AB"),
        owner=st.sampled_from(["", "alice", "bob"]),
    )
    def arrive(self, prompt: str, n: int, n_choices: int, job: str, owner: str) -> None:
        leader: Sequence | None = None
        for _ in range(n_choices):
            it = sequence(prompt, n, job=job, owner=owner, leader=leader)
            leader = leader or it
            self.engine.add(it)
            self.live.append(it)

    @rule(n=st.integers(1, 8))
    def step(self, n: int) -> None:
        for _ in range(n):
            self.engine.step()

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        it = data.draw(st.sampled_from(self.live))
        self.engine.remove(it)
        self.live.remove(it)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        it = data.draw(st.sampled_from(self.live))
        if it.slot is not None and not it.is_prefilling:
            self.engine.end(it, FinishReason.STOP)

    @rule()
    def fail(self) -> None:
        if not self.engine.scheduler.running:
            return
        self.backend.fail_next = BackendError("boom")
        with pytest.raises(BackendError):
            self.engine.step()
        for it in self.engine.recover():
            self.live.remove(it)

    @invariant()
    def audit(self) -> None:
        if hasattr(self, "engine"):
            self.engine.scheduler.check_integrity()

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        run(self.engine)
        for it in self.live:
            assert it.finish is not None
            prompt = bytes(it.prompt).decode()
            assert it.tokens == alone_in_64(prompt, it.max_tokens)[: it.n_tokens]
        assert self.engine.scheduler.slots.n_busy == 0


def alone_in_64(prompt: str, n: int) -> list[int]:
    single, it = engine(n_slots=1, n_ctx=64), sequence(prompt, n)
    single.add(it)
    run(single)
    return it.tokens


EngineMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestEngineMachine = EngineMachine.TestCase
