"""A server's answers look like the engine's own."""

import asyncio

import pytest

from hyprstream.cli.answers import remote
from hyprstream.core.chat import ChatEvent, ChatRequest, ChoiceFinished, ContentDelta, Message
from hyprstream.core.errors import (
    BackendError,
    HyprstreamError,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from hyprstream.core.generation import FinishReason, GenerationParams, SamplingParams
from hyprstream.core.refs import ModelRef
from support.fake_engine import FakeEngine
from support.front_door import serving

SAMPLING = SamplingParams(
    temperature=0.5, top_k=3, top_p=0.6, min_p=0.1, repeat_penalty=1.2, seed=7
)
PARAMS = GenerationParams(SAMPLING, max_tokens=2, stop=("END",))


def _request(model: str = "fake") -> ChatRequest:
    return ChatRequest(ModelRef.parse(model), (Message("user", "Hello"),), PARAMS)


async def _events(url: str, request: ChatRequest, key: str | None = None) -> list[ChatEvent]:
    async with remote(url, key) as ask, ask(request) as events:
        return [event async for event in events]


async def test_text_reason_and_usage_arrive_and_every_parameter_reaches_the_engine() -> None:
    engine = FakeEngine("Hel", "lo", "!")
    async with serving(engine) as url:
        events = await _events(f"{url}/v1/", _request())
    text = [event.text for event in events if isinstance(event, ContentDelta)]
    [finished] = [event for event in events if isinstance(event, ChoiceFinished)]
    assert "".join(text) == "Hello"
    assert finished.reason is FinishReason.LENGTH
    assert (finished.usage.prompt_tokens, finished.usage.completion_tokens) == (7, 2)
    [job] = engine.jobs
    assert job.params == PARAMS


@pytest.mark.parametrize(
    ("model", "key", "cls"),
    [
        ("fake", "wrong", Unauthenticated),
        ("fake", None, Unauthenticated),
        ("none", "key", NotFound),
    ],
)
async def test_a_refusal_is_the_error_it_means(
    model: str, key: str | None, cls: type[HyprstreamError]
) -> None:
    async with serving(FakeEngine("x"), api_key="key") as url:
        with pytest.raises(cls) as refusal:
            await _events(url, _request(model), key)
    assert refusal.value.message


async def test_an_answer_that_breaks_off_is_an_error() -> None:
    async with serving(FakeEngine("x", fails=BackendError("broken"))) as url:
        with pytest.raises(BackendError):
            await _events(url, _request())


async def test_leaving_the_block_stops_the_answer() -> None:
    engine = FakeEngine("Once ", "upon", stalls_at=1)
    async with serving(engine) as url, remote(url, None) as ask:
        async with ask(_request()) as events:
            assert await anext(events) == ContentDelta(0, "Once ")
        async with asyncio.timeout(20):
            await engine.left.wait()


async def test_nobody_there_says_how_to_start_one() -> None:
    with pytest.raises(Unavailable, match="does not answer") as refusal:
        await _events("http://127.0.0.1:1", _request())
    assert refusal.value.hint == "hyprstream server"
