"""The main path: a conversation or a raw prompt in, a stream of events out. Knows text; knows no tokens and no HTTP."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from hyprstream.core.chat import (
    ChatEvent,
    ChatRequest,
    ChatStream,
    ChoiceFinished,
    CompletionRequest,
    ContentDelta,
    RequestFinished,
)
from hyprstream.core.generation import GenerationJob, Timings, TokenEvent, Usage
from hyprstream.core.ports import EngineClient, Policy
from hyprstream.core.principal import Action, Principal, model_resource
from hyprstream.services.pool import EnginePool
from hyprstream.services.prompt import PromptRenderer


class ChatService:
    """Answers chat and completion requests on whichever engine serves their model."""

    def __init__(self, policy: Policy, pool: EnginePool, prompts: PromptRenderer) -> None:
        self._policy = policy
        self._pool = pool
        self._prompts = prompts

    @asynccontextmanager
    async def chat(self, principal: Principal, request: ChatRequest) -> AsyncGenerator[ChatStream]:
        """Continue a conversation. Entering the block queues the work, leaving it ends it.

        Raises:
            Denied, Unauthenticated: the policy says no.
            NotFound: no such model.
            Invalid: the messages do not suit the model's template, or a parameter is out of range.
            ContextOverflow: the rendered prompt does not fit.
            QueueFull, Unavailable: come back later.
        """
        self._policy.require(principal, Action.INFER, model_resource(request.model))
        async with self._pool.lease(request.model) as engine:
            engine.check_room()
            prompt = await self._prompts.render(engine.info, request.messages)
            async with _stream(engine, [GenerationJob(prompt, request.params)]) as events:
                yield events

    @asynccontextmanager
    async def complete(
        self, principal: Principal, request: CompletionRequest
    ) -> AsyncGenerator[ChatStream]:
        """Continue raw prompts. The choices of prompt i have the indices i·n .. i·n + n - 1.

        Raises the same errors as `chat`.
        """
        self._policy.require(principal, Action.INFER, model_resource(request.model))
        async with self._pool.lease(request.model) as engine:
            engine.check_room()
            jobs = [GenerationJob(prompt, request.params) for prompt in request.prompts]
            async with _stream(engine, jobs) as events:
                yield events


@asynccontextmanager
async def _stream(engine: EngineClient, jobs: list[GenerationJob]) -> AsyncGenerator[ChatStream]:
    # Every job is queued before the first is read: the prompts of one request run in one batch.
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(engine.generate(job)) for job in jobs]
        events = _events(streams, n=jobs[0].params.n)
        try:
            yield events
        finally:
            await events.aclose()


async def _events(streams: list[AsyncGenerator[TokenEvent]], n: int) -> AsyncGenerator[ChatEvent]:
    total, slowest = Usage(), Timings()
    for i, stream in enumerate(streams):
        prompt = Usage()
        async for event in stream:
            index = i * n + event.index
            if event.text or event.logprobs:
                yield ContentDelta(index, event.text, event.logprobs)
            if event.finish is not None:
                assert event.usage is not None and event.timings is not None, (
                    "the last event of a choice carries its usage and timings"
                )
                yield ChoiceFinished(index, event.finish, event.usage, event.timings)
                prompt = _prompt_of(prompt, event.usage)
                total = _plus_completion(total, event.usage)
                slowest = max(slowest, event.timings, key=_duration)
        total = Usage(
            total.prompt_tokens + prompt.prompt_tokens,
            total.completion_tokens,
            total.cached_tokens + prompt.cached_tokens,
        )
    yield RequestFinished(total, slowest)


def _prompt_of(seen: Usage, usage: Usage) -> Usage:
    # The choices of a job share their prompt: it is counted once, and cached only as far as no choice computed it.
    if seen.prompt_tokens == 0:
        return Usage(usage.prompt_tokens, 0, usage.cached_tokens)
    return Usage(seen.prompt_tokens, 0, min(seen.cached_tokens, usage.cached_tokens))


def _plus_completion(total: Usage, usage: Usage) -> Usage:
    return Usage(
        total.prompt_tokens, total.completion_tokens + usage.completion_tokens, total.cached_tokens
    )


def _duration(timings: Timings) -> float:
    return timings.queued_ms + timings.prompt_ms + timings.predicted_ms
