"""The bridge between asyncio and the one thread that owns an engine. Knows mailboxes and clocks; knows no llama.cpp.

```
event loop                      engine thread
generate() ── Submit ─────────▶ mailbox ─▶ engine.step() ─▶ text
leave block ── Cancel ────────▶ mailbox
events ◀── outbox ◀───────────  once per step, for all jobs together
```
"""

import asyncio
import contextlib
import logging
import queue
import random
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from hyprstream.core.errors import (
    BackendError,
    ContextOverflow,
    HyprstreamError,
    Invalid,
    QueueFull,
    Unavailable,
)
from hyprstream.core.generation import (
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerationJob,
    Timings,
    TokenEvent,
    Usage,
)
from hyprstream.engine.backend import Backend
from hyprstream.engine.engine import Commit, Engine
from hyprstream.engine.outbox import Outbox
from hyprstream.engine.sampling import check_params, sampler_seed
from hyprstream.engine.sequence import Sequence
from hyprstream.engine.text import TextAssembler

log = logging.getLogger(__name__)

LONG_TEXT = 8192
"""Characters from which encoding is handed to a thread."""


@dataclass(slots=True, eq=False)
class _Choice:
    """What the engine thread keeps of one choice beside its sequence."""

    job: "_Job"
    index: int
    sequence: Sequence
    text: TextAssembler
    first: float | None = None


@dataclass(slots=True, eq=False)
class _Job:
    """One `generate` block. The event loop owns `events`; the engine thread owns the rest."""

    submitted: float
    events: asyncio.Queue[TokenEvent | HyprstreamError] = field(
        default_factory=asyncio.Queue[TokenEvent | HyprstreamError]
    )
    choices: list[_Choice] = field(default_factory=list[_Choice])


@dataclass(frozen=True, slots=True)
class _Submit:
    job: _Job


@dataclass(frozen=True, slots=True)
class _Cancel:
    job: _Job


@dataclass(frozen=True, slots=True)
class _Close:
    pass


_Mail = _Submit | _Cancel | _Close
_Delivery = tuple[_Job, TokenEvent | HyprstreamError]


class EngineLoop:
    """An EngineClient whose engine lives in a thread of this process.

    `max_queue` jobs may wait beside those that hold slots.
    """

    def __init__(self, backend: Backend, *, max_queue: int) -> None:
        self._backend = backend
        self._engine = Engine(backend, time.perf_counter)
        self._max_queue = max_queue
        self._mail: queue.SimpleQueue[_Mail] = queue.SimpleQueue()
        self._outbox: Outbox[list[_Delivery]] = Outbox(_dispatch)
        self._choices: dict[Sequence, _Choice] = {}
        self._encoder = ThreadPoolExecutor(1, "encoder")
        self._n_jobs_open = 0
        self._is_closed = self._is_joined = False
        self._counters = _Counters()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def info(self) -> EngineInfo:
        return self._backend.info

    @property
    def is_alive(self) -> bool:
        return not self._is_closed

    @asynccontextmanager
    async def generate(self, job: GenerationJob) -> AsyncGenerator[AsyncGenerator[TokenEvent]]:
        self._outbox.attach(asyncio.get_running_loop())
        self.check_room()
        check_params(job.params, n_vocab=self.info.n_vocab)
        self._n_jobs_open += 1
        open_job = _Job(time.perf_counter())
        try:
            for prompt in job.prompts:
                self._fill(open_job, await self._encode(prompt), job)
            self._mail.put(_Submit(open_job))
            async with contextlib.aclosing(_read(open_job)) as events:
                yield events
        finally:
            self._n_jobs_open -= 1
            self._mail.put(_Cancel(open_job))
            self._engine.interrupt([choice.sequence for choice in open_job.choices])

    async def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = True
    ) -> list[int]:
        encode = partial(
            self._backend.tokenize, text, add_special=add_special, parse_special=parse_special
        )
        if len(text) < LONG_TEXT:
            return encode()
        # A thread of its own: encoding cannot be interrupted, and must not keep others from loading a model.
        loop = asyncio.get_running_loop()
        n_least = await loop.run_in_executor(self._encoder, self._least_tokens, text)
        if n_least > self.info.n_ctx:
            raise ContextOverflow(needed=n_least, available=self.info.n_ctx, is_bound=True)
        return await loop.run_in_executor(self._encoder, encode)

    def _least_tokens(self, text: str) -> int:
        return len(text.encode()) // self._backend.longest_piece

    async def detokenize(self, tokens: list[int]) -> str:
        self._check_tokens(tokens)
        return b"".join(map(self._backend.piece, tokens)).decode("utf-8", "replace")

    def check_room(self) -> None:
        if self._is_closed:
            raise Unavailable("the model is being unloaded")
        n_waiting = self._n_jobs_open - self.info.n_slots
        if n_waiting >= self._max_queue:
            raise QueueFull(waiting=n_waiting, limit=self._max_queue)

    def stats(self) -> EngineStats:
        counters, scheduler = self._counters, self._engine.scheduler
        return EngineStats(
            n_slots=self.info.n_slots,
            n_slots_busy=scheduler.slots.n_busy,
            n_waiting=len(scheduler.waiting),
            n_requests=counters.n_requests,
            n_prompt_tokens=counters.n_prompt_tokens,
            n_completion_tokens=counters.n_completion_tokens,
            n_cached_tokens=counters.n_cached_tokens,
            n_steps=self._engine.n_steps,
            n_cancelled=counters.n_cancelled,
            n_failures=counters.n_failures,
        )

    async def aclose(self) -> None:
        self._is_closed = True
        self._mail.put(_Close())
        await asyncio.to_thread(self._thread.join)
        self._encoder.shutdown(wait=False, cancel_futures=True)
        if not self._is_joined:
            self._is_joined = True
            self._outbox.close()

    async def _encode(self, prompt: str | tuple[int, ...]) -> list[int]:
        if isinstance(prompt, str):
            # A chat template writes BOS itself or does not; either way the model must see it once.
            has_bos = bool(self.info.bos) and prompt.startswith(self.info.bos)
            tokens = await self.tokenize(prompt, add_special=not has_bos)
        else:
            tokens = list(prompt)
            self._check_tokens(tokens)
        if not tokens:
            raise Invalid("the prompt is empty", param="prompt")
        if len(tokens) >= self.info.n_ctx:
            raise ContextOverflow(needed=len(tokens), available=self.info.n_ctx)
        return tokens

    def _check_tokens(self, tokens: list[int]) -> None:
        for token in tokens:
            if not 0 <= token < self.info.n_vocab:
                raise Invalid(
                    f"{token} is not a token id: this model has {self.info.n_vocab}",
                    param="prompt",
                )

    def _fill(self, job: _Job, prompt: list[int], asked: GenerationJob) -> None:
        params = asked.params
        room = self.info.n_ctx - len(prompt)
        seed = params.sampling.seed
        first_seed = random.getrandbits(64) if seed is None else seed
        leader: Sequence | None = None
        for choice in range(params.n):
            sequence = Sequence(
                prompt,
                params,
                max_tokens=min(params.max_tokens or room, room),
                seed=sampler_seed(first_seed, choice),
                job=f"{id(job):x}:{job.submitted}",
                owner=asked.owner,
                leader=leader,
            )
            leader = leader or sequence
            text = TextAssembler(params.stop)
            job.choices.append(_Choice(job, len(job.choices), sequence, text))

    # Everything below runs in the engine thread.

    def _run(self) -> None:
        is_open = True
        while is_open:
            deliveries: list[_Delivery] = []
            for mail in self._read_mail():
                is_open &= self._handle(mail, deliveries)
            if is_open and self._engine.has_work:
                try:
                    self._step(deliveries)
                except Exception as error:
                    # Whatever went wrong, the requests it hit are told and the server lives on.
                    log.exception("the engine failed and is rebuilt")
                    deliveries.extend(self._recover(error))
            if deliveries:
                self._outbox.put(deliveries)
        self._backend.close()

    def _read_mail(self) -> Iterator[_Mail]:
        """Everything in the mailbox; waits for the first if there is nothing else to do."""
        if not self._engine.has_work:
            yield self._mail.get()
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._mail.get_nowait()

    def _handle(self, mail: _Mail, deliveries: list[_Delivery]) -> bool:
        match mail:
            case _Submit(job):
                self._counters.n_requests += 1
                for choice in job.choices:
                    self._choices[choice.sequence] = choice
                    self._engine.add(choice.sequence)
            case _Cancel(job):
                for choice in job.choices:
                    if self._choices.pop(choice.sequence, None) is not None:
                        self._counters.n_cancelled += 1
                        self._engine.remove(choice.sequence)
            case _Close():
                error = Unavailable("the model is being unloaded")
                deliveries.extend((job, error) for job in self._open_jobs())
                return False
        return True

    def _step(self, deliveries: list[_Delivery]) -> None:
        commits = self._engine.step()
        now = time.perf_counter()
        for commit in commits:
            deliveries.append(self._commit(commit, now))

    def _recover(self, error: Exception) -> list[_Delivery]:
        self._counters.n_failures += 1
        failure = BackendError("the engine failed while it worked on this request")
        failure.__cause__ = error
        # Not only those that ran: a choice that ended in this very step has told nobody yet.
        is_waiting = set(self._engine.scheduler.waiting)
        jobs = {c.job for sequence, c in self._choices.items() if sequence not in is_waiting}
        try:
            self._engine.recover()
        except Exception:
            log.exception("the engine cannot be rebuilt")
            self._is_closed = True
            self._mail.put(_Close())
            return []
        for job in jobs:
            for choice in job.choices:
                self._choices.pop(choice.sequence, None)
                self._engine.remove(choice.sequence)
        return [(job, failure) for job in jobs]

    def _commit(self, commit: Commit, now: float) -> _Delivery:
        sequence = commit.sequence
        choice = self._choices[sequence]
        if choice.first is None:
            choice.first = now
            self._counters.n_prompt_tokens += sequence.n_prompt
            self._counters.n_cached_tokens += sequence.n_cached
        self._counters.n_completion_tokens += 1
        if commit.is_end:
            shown = choice.text.push(b"")
        else:
            shown = choice.text.push(self._backend.piece(commit.token), commit.logprob)
        if shown.is_stopped:
            self._engine.end(sequence, FinishReason.STOP)
        if sequence.finish is None:
            return choice.job, TokenEvent(choice.index, shown.text, shown.logprobs)
        del self._choices[sequence]
        rest = choice.text.flush()
        event = TokenEvent(
            choice.index,
            shown.text + rest.text,
            shown.logprobs + rest.logprobs,
            sequence.finish,
            Usage(sequence.n_prompt, sequence.n_generated, sequence.n_cached),
            self._timings(choice, now),
        )
        return choice.job, event

    def _timings(self, choice: _Choice, now: float) -> Timings:
        assert choice.first is not None, "a choice that ends has a first token"
        leased = choice.sequence.leased or choice.job.submitted
        return Timings(
            queued_ms=1000 * (leased - choice.job.submitted),
            prompt_ms=1000 * (choice.first - leased),
            predicted_ms=1000 * (now - choice.first),
        )

    def _open_jobs(self) -> set[_Job]:
        return {choice.job for choice in self._choices.values()}


@dataclass(slots=True)
class _Counters:
    """Written by the engine thread, read by anybody: each is one integer."""

    n_requests: int = 0
    n_prompt_tokens: int = 0
    n_completion_tokens: int = 0
    n_cached_tokens: int = 0
    n_cancelled: int = 0
    n_failures: int = 0


def _dispatch(deliveries: list[_Delivery]) -> None:
    for job, event in deliveries:
        job.events.put_nowait(event)


async def _read(job: _Job) -> AsyncGenerator[TokenEvent]:
    n_open = len(job.choices)
    while n_open:
        event = await job.events.get()
        if isinstance(event, HyprstreamError):
            raise event
        if event.finish is not None:
            n_open -= 1
        yield event
