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
from hyprstream.core.errors import ContextOverflow, RateLimited, Unauthenticated
from hyprstream.core.generation import FinishReason, GenerationParams, SamplingParams
from hyprstream.core.principal import ANONYMOUS, Principal
from hyprstream.core.refs import ModelRef
from hyprstream.engine.loop import EngineLoop
from hyprstream.engine.scripted import ScriptedBackend
from hyprstream.policy.policy import CasbinPolicy
from hyprstream.services.chat import ChatService
from hyprstream.services.limits import Limits, LimitValues
from hyprstream.services.pool import EnginePool
from hyprstream.services.prompt import PromptRenderer
from support.fake_engine import FakeEngine
from support.front_door import FakeStore
from support.memory_history import MemoryHistory

MODEL = ModelRef("fake")
ALICE = Principal("token:alice")


def reply(prompt: str) -> str:
    return f"[{prompt}]"


def token_holders() -> CasbinPolicy:
    """A policy that allows whoever holds a token everything."""
    return CasbinPolicy(MemoryHistory("p, token:*, *, *, *, allow\n"), owner="")


@pytest.fixture
async def pool() -> AsyncGenerator[EnginePool]:
    pool = EnginePool(lambda _: EngineLoop(ScriptedBackend(reply), max_queue=8), capacity=1)
    yield pool
    await pool.aclose()


class Books(Limits):
    """Limits that also remember what was charged."""

    def __init__(self, **values: int) -> None:
        super().__init__(LimitValues(**values), max_queue=8)  # type: ignore[arg-type]
        self.charges: list[tuple[str, int]] = []

    def charge(self, caller: Principal, n_tokens: int) -> None:
        self.charges.append((caller.subject, n_tokens))
        super().charge(caller, n_tokens)


@pytest.fixture
def books() -> Books:
    return Books(tokens_per_minute=10_000, concurrent=1)


@pytest.fixture
def service(pool: EnginePool, books: Books) -> ChatService:
    return ChatService(token_holders(), FakeStore(), pool, PromptRenderer(), books)


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


async def test_what_a_request_used_is_charged_to_whoever_asked(
    service: ChatService, books: Books
) -> None:
    events = await complete(service, "a", "bc", n=2)
    assert isinstance(events[-1], RequestFinished)
    assert books.charges == [("token:alice", events[-1].usage.total_tokens)]


async def test_a_request_that_is_left_is_charged_its_prompt_and_what_was_read_of_its_answer(
    service: ChatService, books: Books
) -> None:
    prompts = ("eight ch", (1, 2, 3))
    async with service.complete(ALICE, CompletionRequest(MODEL, prompts)) as events:
        await anext(events)
    assert books.charges == [("token:alice", 8 // 4 + 3 + 1)]


async def test_a_request_that_was_never_let_in_is_not_charged(
    service: ChatService, books: Books
) -> None:
    with pytest.raises(ContextOverflow):
        await chat(service, Message("user", "x" * 300))
    assert books.charges == []
    assert await complete(service, "a"), "its place is free again"


async def test_a_principal_over_its_limit_is_refused_before_a_model_is_loaded(
    pool: EnginePool, books: Books
) -> None:
    books = Books(tokens_per_minute=1)
    books.charge(ALICE, 1)
    service = ChatService(token_holders(), FakeStore(), pool, PromptRenderer(), books)
    with pytest.raises(RateLimited, match="tokens per minute"):
        await complete(service, "a")
    assert not pool.loaded


async def test_a_request_under_way_is_one_of_those_its_principal_may_have(
    service: ChatService,
) -> None:
    async with service.complete(ALICE, CompletionRequest(MODEL, ("a",))) as events:
        with pytest.raises(RateLimited, match="1 requests under way"):
            await complete(service, "b")
        assert [e async for e in events]
    assert await complete(service, "b")


async def test_an_engine_learns_who_a_job_is_for() -> None:
    engine = FakeEngine("ok")
    pool = EnginePool(lambda _: engine, capacity=1)
    service = ChatService(token_holders(), FakeStore(), pool, PromptRenderer(), Books())
    await complete(service, "a")
    await chat(service, Message("user", "u"))
    assert [job.owner for job in engine.jobs] == ["token:alice", "token:alice"]
    await pool.aclose()
