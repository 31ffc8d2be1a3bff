"""The main path: a conversation or a raw prompt in, a stream of events out. Knows text; knows no tokens and no HTTP."""

from collections import Counter
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
from hyprstream.core.principal import Action, Principal
from hyprstream.services.limits import Limits
from hyprstream.services.pool import EnginePool
from hyprstream.services.prompt import PromptRenderer
from hyprstream.services.versions import VersionNames, Versions

CHARACTERS_PER_TOKEN = 4
"""Of text in most languages and vocabularies, roughly."""


class ChatService:
    """Answers chat and completion requests on whichever engine serves their model."""

    def __init__(
        self,
        policy: Policy,
        names: VersionNames,
        pool: EnginePool,
        prompts: PromptRenderer,
        limits: Limits,
    ) -> None:
        self._versions = Versions(policy, names)
        self._pool = pool
        self._prompts = prompts
        self._limits = limits

    @asynccontextmanager
    async def chat(self, principal: Principal, request: ChatRequest) -> AsyncGenerator[ChatStream]:
        """Continue a conversation. Entering the block queues the work, leaving it ends it.

        Raises:
            Denied, Unauthenticated: the policy says no.
            NotFound: no such model.
            Invalid: the messages do not suit the model's template, or a parameter is out of range.
            ContextOverflow: the rendered prompt does not fit.
            RateLimited, QueueFull, Unavailable: come back later.
        """
        ref = await self._versions.admit(principal, Action.INFER, request.model)
        with self._limits.admit(principal):
            async with self._pool.lease(ref) as engine:
                engine.check_room()
                prompt = await self._prompts.render(engine.info, request.messages)
                job = GenerationJob((prompt,), request.params, principal.subject)
                async with self._stream(principal, engine, job) as events:
                    yield events

    @asynccontextmanager
    async def complete(
        self, principal: Principal, request: CompletionRequest
    ) -> AsyncGenerator[ChatStream]:
        """Continue raw prompts. The choices of prompt i have the indices i·n .. i·n + n - 1.

        Raises the same errors as `chat`.
        """
        ref = await self._versions.admit(principal, Action.INFER, request.model)
        with self._limits.admit(principal):
            async with self._pool.lease(ref) as engine:
                engine.check_room()
                job = GenerationJob(request.prompts, request.params, principal.subject)
                async with self._stream(principal, engine, job) as events:
                    yield events

    @asynccontextmanager
    async def _stream(
        self, principal: Principal, engine: EngineClient, job: GenerationJob
    ) -> AsyncGenerator[ChatStream]:
        async with engine.generate(job) as tokens:
            meter = _Meter(job)
            try:
                async with aclosing(_events(tokens, meter)) as events:
                    yield events
            finally:
                self._limits.charge(principal, meter.n_tokens)


class _Meter:
    """What a request has used so far."""

    def __init__(self, job: GenerationJob) -> None:
        self._job = job
        self._prompts: dict[int, Usage] = {}
        self._n_generated: Counter[int] = Counter()
        """By choice."""
        self.slowest = Timings()

    def count(self, event: TokenEvent) -> None:
        """Take a token, or the end of a choice, into account."""
        self._n_generated[event.index] += 1
        if event.usage is not None and event.timings is not None:
            prompt = event.index // self._job.params.n
            self._prompts[prompt] = _shared(self._prompts.get(prompt), event.usage)
            self._n_generated[event.index] = event.usage.completion_tokens
            self.slowest = max(self.slowest, event.timings, key=_duration)

    @property
    def usage(self) -> Usage:
        """Of the choices that ended."""
        return Usage(
            sum(prompt.prompt_tokens for prompt in self._prompts.values()),
            self._n_generated.total(),
            sum(prompt.cached_tokens for prompt in self._prompts.values()),
        )

    @property
    def n_tokens(self) -> int:
        """What to charge: a prompt whose choices were all left is counted by its length."""
        n_left = sum(
            _n_tokens(prompt)
            for i, prompt in enumerate(self._job.prompts)
            if i not in self._prompts
        )
        return self.usage.total_tokens + n_left


async def _events(tokens: AsyncGenerator[TokenEvent], meter: _Meter) -> AsyncGenerator[ChatEvent]:
    async for event in tokens:
        meter.count(event)
        if event.text or event.logprobs:
            yield ContentDelta(event.index, event.text, event.logprobs)
        if event.finish is not None:
            assert event.usage is not None and event.timings is not None, (
                "the last event of a choice carries its usage and timings"
            )
            yield ChoiceFinished(event.index, event.finish, event.usage, event.timings)
    yield RequestFinished(meter.usage, meter.slowest)


def _n_tokens(prompt: str | tuple[int, ...]) -> int:
    # The engine counts text too, but who leaves does not wait for that.
    return -(-len(prompt) // CHARACTERS_PER_TOKEN) if isinstance(prompt, str) else len(prompt)


def _shared(seen: Usage | None, usage: Usage) -> Usage:
    # The choices of a prompt share it: it counts once, and as cached only as far as none of them computed it.
    return usage if seen is None or usage.cached_tokens < seen.cached_tokens else seen


def _duration(timings: Timings) -> float:
    return timings.queued_ms + timings.prompt_ms + timings.predicted_ms
