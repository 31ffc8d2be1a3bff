"""The main path, on an engine without weights."""

from collections.abc import AsyncGenerator

import pytest

from hyprstream.core.chat import (
    ChatEvent,
    ChatRequest,
    ChoiceFinished,
    CompletionRequest,
    ContentDelta,
    Message,
    RequestFinished,
)
from hyprstream.core.errors import ContextOverflow, Unauthenticated
from hyprstream.core.generation import FinishReason, GenerationParams, SamplingParams
from hyprstream.core.principal import ANONYMOUS, Principal
from hyprstream.core.refs import ModelRef
from hyprstream.engine.loop import EngineLoop
from hyprstream.engine.scripted import ScriptedBackend
from hyprstream.policy.policy import KeyPolicy
from hyprstream.services.chat import ChatService
from hyprstream.services.pool import EnginePool
from hyprstream.services.prompt import PromptRenderer

MODEL = ModelRef("scripted")
ALICE = Principal("token:alice")


def reply(prompt: str) -> str:
    return f"[{prompt}]"


@pytest.fixture
async def pool() -> AsyncGenerator[EnginePool]:
    pool = EnginePool(lambda _: EngineLoop(ScriptedBackend(reply), max_queue=8), capacity=1)
    yield pool
    await pool.aclose()


@pytest.fixture
def service(pool: EnginePool) -> ChatService:
    return ChatService(KeyPolicy(key_required=True), pool, PromptRenderer())


async def chat(service: ChatService, *messages: Message, **params: object) -> list[ChatEvent]:
    request = ChatRequest(MODEL, messages, GenerationParams(**params))  # type: ignore[arg-type]
    async with service.chat(ALICE, request) as events:
        return [event async for event in events]


async def complete(service: ChatService, *prompts: str, n: int = 1) -> list[ChatEvent]:
    request = CompletionRequest(MODEL, prompts, GenerationParams(n=n))
    async with service.complete(ALICE, request) as events:
        return [event async for event in events]


def text(events: list[ChatEvent], index: int = 0) -> str:
    return "".join(e.text for e in events if isinstance(e, ContentDelta) and e.index == index)


async def test_a_conversation_is_rendered_and_answered(service: ChatService) -> None:
    events = await chat(service, Message("system", "s"), Message("user", "u"))
    assert text(events) == "[system: s\nuser: u\n]"


async def test_a_stream_ends_with_each_choice_and_then_the_request(service: ChatService) -> None:
    events = await chat(service, Message("user", "u"), n=2)
    *_, last = events
    ends = [e for e in events if isinstance(e, ChoiceFinished)]
    assert sorted(e.index for e in ends) == [0, 1]
    assert {e.reason for e in ends} == {FinishReason.STOP}
    assert isinstance(last, RequestFinished)
    prompt = 1 + len("user: u\n")
    assert last.usage.prompt_tokens == prompt, "the prompt is counted once"
    assert last.usage.completion_tokens == 2 * (len("[user: u\n]") + 1)
    assert last.usage.cached_tokens == 0, "one of them computed it"


async def test_every_prompt_has_its_choices(service: ChatService) -> None:
    events = await complete(service, "a", "bc", n=2)
    assert [text(events, i) for i in range(4)] == ["[a]", "[a]", "[bc]", "[bc]"]
    assert isinstance(events[-1], RequestFinished)
    assert events[-1].usage.prompt_tokens == 2 + 3


async def test_events_without_text_are_not_passed_on(service: ChatService) -> None:
    events = await chat(service, Message("user", "ü"), stop=("zzz",))
    assert all(e.text for e in events if isinstance(e, ContentDelta))


async def test_a_conversation_that_does_not_fit_names_both_numbers(service: ChatService) -> None:
    with pytest.raises(ContextOverflow, match=r"the prompt has 308 tokens.*256"):
        await chat(service, Message("user", "x" * 300))


async def test_the_policy_is_asked(service: ChatService, pool: EnginePool) -> None:
    request = ChatRequest(MODEL, (Message("user", "u"),))
    with pytest.raises(Unauthenticated):
        async with service.chat(ANONYMOUS, request):
            pass
    assert not pool.loaded


async def test_leaving_early_ends_the_work(service: ChatService, pool: EnginePool) -> None:
    request = ChatRequest(MODEL, (Message("user", "u"),), GenerationParams(SamplingParams()))
    async with service.chat(ALICE, request) as events:
        await anext(events)
    async with pool.lease(MODEL) as engine:
        # Mail is read in order: when this job is answered, the one that was left is gone.
        async with service.complete(ALICE, CompletionRequest(MODEL, ("x",))) as others:
            assert [e async for e in others]
        assert engine.stats().n_slots_busy == 0
