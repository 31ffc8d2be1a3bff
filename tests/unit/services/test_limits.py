"""Nobody gets more than the operator allows, and whoever is refused learns when to come back."""

from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits.storage import memory

from hyprstream.core.errors import RateLimited
from hyprstream.core.principal import ANONYMOUS, Door, Principal
from hyprstream.services import limits as module
from hyprstream.services.limits import Limits, LimitValues

ALICE, BOB = Principal("token:alice"), Principal("token:bob")


@dataclass
class Clock:
    """Seconds since 1970, moved by hand."""

    now: float = 1_900_000_020.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time, as the windows see it; a minute begins now."""
    clock = Clock()
    monkeypatch.setattr(memory, "time", SimpleNamespace(time=clock))
    return clock


def limits(*, max_queue: int = 8, **values: float) -> Limits:
    return Limits(LimitValues(**values), max_queue=max_queue)  # type: ignore[arg-type]


def ask(limits: Limits, who: Principal = ALICE) -> int:
    """Seconds to wait; 0 when the request was let in."""
    try:
        with limits.admit(who):
            return 0
    except RateLimited as error:
        return error.retry_after


@pytest.mark.parametrize("values", [{}, {"queue_share": 1.0}])
def test_without_limits_everybody_may_ask_for_everything(values: dict[str, float]) -> None:
    free = limits(**values)
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(free.admit(ANONYMOUS))
            free.charge(ANONYMOUS, 1_000_000)


def test_a_request_too_many_is_refused_until_the_window_has_moved_on(clock: Clock) -> None:
    one = limits(requests_per_minute=3)
    assert [ask(one) for _ in range(3)] == [0, 0, 0]
    with pytest.raises(RateLimited) as refusal, one.admit(ALICE):
        pass
    assert refusal.value.limit == "requests_per_minute"
    assert "token:alice has used up its 3 requests per minute" in refusal.value.message
    clock.now += refusal.value.retry_after - 1
    assert ask(one) == 1
    clock.now += 1
    assert ask(one) == 0


def test_a_refused_request_uses_nothing_up(clock: Clock) -> None:
    one = limits(requests_per_minute=1)
    assert ask(one) == 0
    wait = ask(one)
    assert [ask(one) for _ in range(100)] == [wait] * 100


def test_a_burst_around_the_turn_of_a_minute_is_no_way_to_get_twice_as_much(clock: Clock) -> None:
    one = limits(requests_per_minute=60)
    clock.now += 59
    assert sum(ask(one) == 0 for _ in range(100)) == 60
    clock.now += 2
    assert sum(ask(one) == 0 for _ in range(100)) <= 2


def test_tokens_are_charged_when_known_and_the_next_request_waits(clock: Clock) -> None:
    one = limits(tokens_per_minute=100)
    with one.admit(ALICE):
        one.charge(ALICE, 99)
    with one.admit(ALICE):
        one.charge(ALICE, 901)
    with pytest.raises(RateLimited) as refusal, one.admit(ALICE):
        pass
    assert refusal.value.limit == "tokens_per_minute"
    assert refusal.value.retry_after == 60 + 54 + 1, "a tenth of 1000 overlaps after 54 s more"
    clock.now += 114
    assert ask(one) == 1
    clock.now += 1
    assert ask(one) == 0


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 400)), max_size=8), st.integers(1, 300)
)
def test_whoever_comes_back_when_told_to_is_let_in_and_no_full_second_earlier(
    uses: list[tuple[int, int]], most: int
) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "time", SimpleNamespace(time=clock))
        one = limits(tokens_per_minute=most)
        for pause, n_tokens in uses:
            clock.now += pause
            one.charge(ALICE, n_tokens)
        if wait := ask(one):
            clock.now += wait - 1.001
            assert ask(one) > 0
            clock.now += 1.001
        assert ask(one) == 0


def test_only_so_many_requests_of_one_principal_are_under_way_at_once() -> None:
    one = limits(concurrent=2)
    with one.admit(ALICE), one.admit(ALICE):
        with pytest.raises(RateLimited) as refusal, one.admit(ALICE):
            pass
        assert (refusal.value.limit, refusal.value.retry_after) == ("concurrent", 1)
        assert ask(one, BOB) == 0
    assert ask(one) == 0


def test_a_request_that_fails_gives_its_place_back() -> None:
    one = limits(concurrent=1)
    for _ in range(3):
        with pytest.raises(KeyError), one.admit(ALICE):
            raise KeyError


@pytest.mark.parametrize(
    ("share", "max_queue", "most"), [(0.5, 8, 4), (0.3, 8, 3), (0.01, 8, 1), (0.5, 0, 1)]
)
def test_one_principal_fills_no_more_than_its_share_of_the_queue(
    share: float, max_queue: int, most: int
) -> None:
    one = limits(queue_share=share, max_queue=max_queue)
    with ExitStack() as stack:
        for _ in range(most):
            stack.enter_context(one.admit(ALICE))
        with pytest.raises(RateLimited, match=f"{most} requests under way") as refusal:
            stack.enter_context(one.admit(ALICE))
        assert refusal.value.limit == "queue_share"
        assert ask(one, BOB) == 0


def test_a_request_refused_for_another_reason_is_not_counted(clock: Clock) -> None:
    one = limits(requests_per_minute=2, concurrent=1)
    with one.admit(ALICE):
        assert [ask(one) for _ in range(5)] == [1] * 5
    assert ask(one) == 0


def test_principals_are_counted_apart_and_by_subject_alone(clock: Clock) -> None:
    one = limits(requests_per_minute=1)
    assert [ask(one, who) for who in (ALICE, BOB, ANONYMOUS)] == [0, 0, 0]
    assert ask(one, Principal("token:alice", Door.WEBSOCKET, credential="another")) > 0


def test_principals_that_are_idle_are_forgotten(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    storages: list[memory.MemoryStorage] = []

    class Storage(memory.MemoryStorage):
        def __init__(self) -> None:
            super().__init__()
            storages.append(self)

    monkeypatch.setattr(module, "MemoryStorage", Storage)
    one = limits(requests_per_minute=5, tokens_per_minute=50, concurrent=5)

    def n_remembered() -> int:
        assert ask(one) == 0
        one.charge(ALICE, 1)
        for storage in storages:
            storage.timer.join()  # it forgets in a thread, a moment after a use
        return sum(len(s.storage) + len(s.expirations) + len(s.locks) for s in storages)

    n_of_one = n_remembered()
    for i in range(1000):
        assert ask(one, Principal(f"token:{i}")) == 0
        one.charge(Principal(f"token:{i}"), 7)
    clock.now += 121
    assert n_remembered() <= n_of_one
