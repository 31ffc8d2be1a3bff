"""An engine that says what it is told to. Real enough for everything above it; has no model, no thread and no clock."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from hyprstream.core.generation import (
    Alternative,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerationJob,
    Timings,
    TokenEvent,
    TokenLogprob,
    Usage,
)
from hyprstream.engine.sampling import check_params

N_PROMPT_TOKENS = 7
N_CACHED_TOKENS = 2
TIMINGS = Timings(queued_ms=1.0, prompt_ms=10.0, predicted_ms=20.0)
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
"""Each message on a line, so that a test can read what reached the engine."""


class FakeEngine:
    """Says its pieces, a token each, in every choice; then ends.

    `refuses` is raised when a job is submitted, `fails` after the last piece. With `stalls_at=k` every job waits before its
    piece k until `release` is set. `jobs` are those that were let in; `left` is set when one of them was left.
    """

    def __init__(
        self,
        *pieces: str,
        refuses: Exception | None = None,
        fails: Exception | None = None,
        stalls_at: int | None = None,
    ) -> None:
        self._pieces = pieces
        self._refuses = refuses
        self._fails = fails
        self._stalls_at = stalls_at
        self.jobs: list[GenerationJob] = []
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.release = asyncio.Event()
        self.n_open = 0
        self.is_alive = True

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            n_ctx=128,
            n_ctx_train=256,
            n_vocab=1000,
            n_slots=4,
            n_params=10,
            size_bytes=20,
            template=TEMPLATE,
            bos="<s>",
            eos="</s>",
            description="fake",
        )

    @asynccontextmanager
    async def generate(self, job: GenerationJob) -> AsyncGenerator[AsyncGenerator[TokenEvent]]:
        check_params(job.params, n_vocab=self.info.n_vocab)
        if self._refuses is not None:
            raise self._refuses
        self.jobs.append(job)
        self.n_open += 1
        self.entered.set()
        try:
            async with aclosing(self._say(job)) as events:
                yield events
        finally:
            self.n_open -= 1
            self.left.set()

    async def _say(self, job: GenerationJob) -> AsyncGenerator[TokenEvent]:
        params = job.params
        pieces = self._pieces[: params.max_tokens]
        for k, piece in enumerate(pieces):
            if k == self._stalls_at:
                await self.release.wait()
            logprobs = () if params.n_logprobs is None else (_logprob(k, piece, params.n_logprobs),)
            for index in range(params.n * len(job.prompts)):
                yield TokenEvent(index, piece, logprobs)
        if self._fails is not None:
            raise self._fails
        is_cut = len(pieces) < len(self._pieces)
        reason = FinishReason.LENGTH if is_cut else FinishReason.STOP
        usage = Usage(N_PROMPT_TOKENS, len(pieces), N_CACHED_TOKENS)
        for index in range(params.n * len(job.prompts)):
            yield TokenEvent(index, finish=reason, usage=usage, timings=TIMINGS)

    async def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = True
    ) -> list[int]:
        return list(text.encode())

    async def detokenize(self, tokens: list[int]) -> str:
        return bytes(tokens).decode()

    def check_room(self) -> None:
        return

    def stats(self) -> EngineStats:
        return EngineStats(4, self.n_open, 0, len(self.jobs), 0, 0, 0, 0, 0, 0)

    async def aclose(self) -> None:
        self.is_alive = False


def _logprob(token: int, piece: str, n_alternatives: int) -> TokenLogprob:
    alternatives = (
        Alternative(token, piece.encode(), -0.5),
        Alternative(999, b"\xff", float("-inf")),
    )
    return TokenLogprob(token, piece.encode(), -0.5, alternatives[:n_alternatives])
