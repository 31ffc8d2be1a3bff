"""The main path: a conversation or a raw prompt in, a stream of events out. Knows text; knows no tokens and no HTTP."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

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
            async with _stream(engine, GenerationJob((prompt,), request.params)) as events:
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
            async with _stream(engine, GenerationJob(request.prompts, request.params)) as events:
                yield events


@asynccontextmanager
async def _stream(engine: EngineClient, job: GenerationJob) -> AsyncGenerator[ChatStream]:
    async with (
        engine.generate(job) as tokens,
        aclosing(_events(tokens, n=job.params.n)) as events,
    ):
        yield events


async def _events(tokens: AsyncGenerator[TokenEvent], n: int) -> AsyncGenerator[ChatEvent]:
    prompts: dict[int, Usage] = {}
    n_completion, slowest = 0, Timings()
    async for event in tokens:
        if event.text or event.logprobs:
            yield ContentDelta(event.index, event.text, event.logprobs)
        if event.finish is not None:
            assert event.usage is not None and event.timings is not None, (
                "the last event of a choice carries its usage and timings"
            )
            yield ChoiceFinished(event.index, event.finish, event.usage, event.timings)
            prompt = event.index // n
            prompts[prompt] = _shared(prompts.get(prompt), event.usage)
            n_completion += event.usage.completion_tokens
            slowest = max(slowest, event.timings, key=_duration)
    usage = Usage(
        sum(prompt.prompt_tokens for prompt in prompts.values()),
        n_completion,
        sum(prompt.cached_tokens for prompt in prompts.values()),
    )
    yield RequestFinished(usage, slowest)


def _shared(seen: Usage | None, usage: Usage) -> Usage:
    # The choices of a prompt share it: it counts once, and as cached only as far as none of them computed it.
    return usage if seen is None or usage.cached_tokens < seen.cached_tokens else seen


def _duration(timings: Timings) -> float:
    return timings.queued_ms + timings.prompt_ms + timings.predicted_ms
