"""Whole scenarios against servers without a model: what they report of equal, unequal and overloaded ones."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from hyprstream.bench.bench import Bench, Options
from hyprstream.bench.client import Endpoint
from hyprstream.bench.scenarios import cancel, overload, throughput
from hyprstream.bench.servers import Running, Target

OPTIONS = Options(
    n_rounds=2,
    rest_seconds=0.0,
    streams=(1, 2),
    prompt_tokens=(4, 9),
    n_tokens=5,
    n_slots=2,
    quiet_seconds=0.0,
)

Serve = Callable[[Any], AbstractAsyncContextManager[Any]]


def bench(**servers: Any) -> Bench:
    launchers = tuple(Running(name, server.endpoint) for name, server in servers.items())
    return Bench(OPTIONS, launchers, None, say=lambda line: None)


async def test_both_sides_get_the_same_prompts_and_neither_gets_one_twice(
    serve: Serve, fake_server: Any
) -> None:
    async with serve(fake_server()) as ours, serve(fake_server()) as theirs:
        result = await throughput.run(bench(ours=ours, theirs=theirs))
    sent = [[tuple(request["prompt"]) for request in s.requests] for s in (ours, theirs)]
    assert sorted(sent[0]) == sorted(sent[1])
    assert len(set(sent[0])) == len(sent[0])
    # 1 and 2 streams at 4 tokens, 1 and 2 at 9: each with two rounds, there and back.
    assert len(sent[0]) == OPTIONS.n_slots + 2 * 2 * (1 + 2 + 1 + 2)
    assert [row[:3] for row in result.rows][:2] == [("1", "4", "ours"), ("1", "4", "theirs")]
    assert result.rows[1][-1] == "4/4"


async def test_a_peer_that_answers_with_fewer_tokens_is_not_compared(
    serve: Serve, fake_server: Any
) -> None:
    short = fake_server(n_tokens_reported=lambda asked: asked - 1)
    async with serve(fake_server()) as ours, serve(short) as theirs:
        result = await throughput.run(bench(ours=ours, theirs=theirs))
    assert result.rows[1][-2] == "refused"
    assert [goal.measured for goal in result.goals] == [None, None]
    assert any("not comparable: stream 0 has 4 prompt and 5" in note for note in result.notes)


async def test_different_greedy_text_is_counted(serve: Serve, fake_server: Any) -> None:
    async with serve(fake_server()) as ours, serve(fake_server(piece="b ")) as theirs:
        result = await throughput.run(bench(ours=ours, theirs=theirs))
    assert result.rows[1][-1] == "0/4"


async def test_refusals_are_timed_and_accepted_requests_checked(
    serve: Serve, fake_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "N_REQUESTS", 10)
    n_warm = OPTIONS.n_slots
    server = fake_server(is_full=lambda n_earlier: n_earlier >= n_warm + 6)
    async with serve(server) as ours:
        result = await overload.run(bench(ours=ours))
    [row] = result.rows
    assert row[:4] == ("ours", "6", "14", "0")
    assert row[-2] == "6/6"
    in_full = result.goals[1]
    assert in_full.is_met


async def test_an_accepted_request_that_is_cut_short_fails_the_goal(
    serve: Serve, fake_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "N_REQUESTS", 3)
    async with serve(fake_server(n_tokens_reported=lambda asked: asked // 2)) as ours:
        result = await overload.run(bench(ours=ours))
    assert result.rows[0][-2] == "0/6"
    assert not result.goals[1].is_met


async def test_a_server_that_never_notices_a_departure_is_asked_only_once() -> None:
    async def departures(scene: cancel.Scene) -> AsyncGenerator[float]:
        while True:
            yield cancel.GIVE_UP_SECONDS

    scene = cancel.Scene(bench(), Target("ours", Endpoint("127.0.0.1", 1), "m", None))
    assert await cancel._repeat(departures, scene, 25) == [cancel.GIVE_UP_SECONDS]
