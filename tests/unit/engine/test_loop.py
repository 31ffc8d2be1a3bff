"""The bridge between asyncio and the engine thread."""

import asyncio
import itertools
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from hyprstream.core.errors import (
    BackendError,
    ContextOverflow,
    Invalid,
    QueueFull,
    Unavailable,
)
from hyprstream.core.generation import (
    FinishReason,
    GenerationJob,
    GenerationParams,
    SamplingParams,
    TokenEvent,
    Usage,
)
from hyprstream.engine.loop import EngineLoop
from hyprstream.engine.scripted import BOS, N_VOCAB, ScriptedBackend

PATIENCE = 20.0
SEEDED = SamplingParams(temperature=1.0, seed=7)


@asynccontextmanager
async def running(backend: ScriptedBackend, *, max_queue: int = 8) -> AsyncGenerator[EngineLoop]:
    engine = EngineLoop(backend, max_queue=max_queue)
    try:
        async with asyncio.timeout(PATIENCE):
            yield engine
    finally:
        await engine.aclose()
    assert backend.is_closed


async def events_of(engine: EngineLoop, job: GenerationJob) -> list[TokenEvent]:
    async with engine.generate(job) as events:
        return [event async for event in events]


def job(prompt: str | tuple[int, ...] = "hi", **params: object) -> GenerationJob:
    return GenerationJob((prompt,), GenerationParams(**params))  # type: ignore[arg-type]


def text(events: list[TokenEvent], index: int = 0) -> str:
    return "".join(event.text for event in events if event.index == index)


async def all_slots_free(engine: EngineLoop) -> None:
    while engine.stats().n_slots_busy or engine.stats().n_waiting:
        await asyncio.sleep(0.001)


async def test_a_prompt_is_continued_and_its_tokens_are_counted() -> None:
    async with running(ScriptedBackend(lambda _: "höi")) as engine:
        events = await events_of(engine, job("abc"))
    assert text(events) == "höi"
    assert events[-1].finish is FinishReason.STOP
    assert events[-1].usage == Usage(prompt_tokens=4, completion_tokens=5, cached_tokens=0)


async def test_a_stop_string_ends_a_choice_and_frees_its_slot() -> None:
    async with running(ScriptedBackend(lambda _: "one STOP two")) as engine:
        events = await events_of(engine, job(stop=("STOP",)))
        assert (text(events), events[-1].finish) == ("one ", FinishReason.STOP)
        assert events[-1].usage is not None
        assert events[-1].usage.completion_tokens == len("one STOP")
        assert engine.stats().n_slots_busy == 0


async def test_max_tokens_ends_a_choice() -> None:
    async with running(ScriptedBackend()) as engine:
        events = await events_of(engine, job(max_tokens=5))
    assert (len(text(events)), events[-1].finish) == (5, FinishReason.LENGTH)


async def test_ignore_eos_goes_on_to_the_limit() -> None:
    async with running(ScriptedBackend(lambda _: "x")) as engine:
        events = await events_of(engine, job(ignore_eos=True, max_tokens=6))
    assert (text(events), events[-1].finish) == ("x", FinishReason.LENGTH)


async def test_choices_share_the_prompt_and_differ_by_their_seed() -> None:
    async with running(ScriptedBackend(n_slots=2)) as engine:
        sampling = SamplingParams(temperature=1.0, seed=7)
        events = await events_of(engine, job(n=3, max_tokens=8, sampling=sampling))
        again = await events_of(engine, job(n=3, max_tokens=8, sampling=sampling))
    choices = [text(events, i) for i in range(3)]
    assert len(set(choices)) == 3
    assert [text(again, i) for i in range(3)] == choices
    cached = [e.usage.cached_tokens for e in events if e.usage is not None]
    assert sorted(cached) == [0, 2, 2]


async def test_leaving_the_block_frees_the_slot() -> None:
    async with running(ScriptedBackend(n_ctx=100_000)) as engine:
        async with engine.generate(job()) as events:
            await anext(events)
        await all_slots_free(engine)
        assert engine.stats().n_cancelled == 1


async def test_leaving_while_waiting_gives_up_the_place_in_the_queue() -> None:
    async with running(ScriptedBackend(n_slots=1, n_ctx=100_000)) as engine:
        async with engine.generate(job()) as first:
            await anext(first)
            async with engine.generate(job()):
                pass
            while engine.stats().n_cancelled == 0:
                await anext(first)
        await all_slots_free(engine)


async def test_thirty_two_clients_that_come_and_go_leave_every_slot_free() -> None:
    async with running(ScriptedBackend(n_slots=4, n_ctx=10_000), max_queue=64) as engine:

        async def client(i: int) -> int:
            n = 0
            async with engine.generate(job(f"client {i}", n=1 + i % 3, max_tokens=40)) as events:
                async for _ in events:
                    n += 1
                    if n > 3 * i:
                        break
            return n

        assert all(n > 0 for n in await asyncio.gather(*map(client, range(32))))
        await all_slots_free(engine)


async def test_one_job_too_many_is_refused_with_the_numbers() -> None:
    async with (
        running(ScriptedBackend(n_slots=1, n_ctx=100_000), max_queue=1) as engine,
        engine.generate(job()) as first,
        engine.generate(job()),
    ):
        await anext(first)
        with pytest.raises(QueueFull) as refusal:
            async with engine.generate(job()):
                pass
        assert (refusal.value.waiting, refusal.value.limit) == (1, 1)


async def test_a_prompt_longer_than_the_window_is_refused_with_both_numbers() -> None:
    async with running(ScriptedBackend(n_ctx=16)) as engine:
        with pytest.raises(ContextOverflow) as refusal:
            await events_of(engine, job("x" * 40))
        assert (refusal.value.needed, refusal.value.available) == (41, 16)


@pytest.mark.parametrize("prompt", [(), (-1,), (N_VOCAB,)])
async def test_token_ids_that_do_not_exist_are_refused(prompt: tuple[int, ...]) -> None:
    async with running(ScriptedBackend()) as engine:
        with pytest.raises(Invalid):
            await events_of(engine, job(prompt))


async def test_bos_is_added_once_and_never_doubled() -> None:
    backend = ScriptedBackend(lambda _: "x")
    async with running(backend) as engine:
        plain = (await events_of(engine, job("hi")))[-1].usage
        with_bos = (await events_of(engine, job("<s>hi")))[-1].usage
        as_tokens = (await events_of(engine, job((BOS, *b"hi"))))[-1].usage
    assert plain is not None
    assert plain.prompt_tokens == 3
    assert plain == with_bos == as_tokens


async def test_a_failed_decode_fails_its_requests_and_the_engine_lives_on() -> None:
    backend = ScriptedBackend(n_slots=2, n_ctx=100_000)
    async with running(backend) as engine:
        async with engine.generate(job(n=3)) as events:
            await anext(events)
            backend.fail_next = RuntimeError("anything at all")
            with pytest.raises(BackendError):
                async for _ in events:
                    pass
        await all_slots_free(engine)
        assert len(text(await events_of(engine, job(max_tokens=4)))) == 4
        assert engine.stats().n_failures == 1


async def test_an_engine_that_cannot_be_rebuilt_says_so_and_is_dead() -> None:
    class Hopeless(ScriptedBackend):
        def reset(self) -> None:
            raise BackendError("no memory")

    backend = Hopeless(n_ctx=100_000)
    async with running(backend) as engine:
        async with engine.generate(job()) as events:
            await anext(events)
            backend.fail_next = RuntimeError("boom")
            with pytest.raises(Unavailable):
                async for _ in events:
                    pass
        assert not engine.is_alive
        with pytest.raises(Unavailable):
            engine.check_room()


async def test_closing_ends_what_is_running() -> None:
    backend = ScriptedBackend(n_ctx=100_000)
    async with running(backend) as engine, engine.generate(job()) as events:
        await anext(events)
        await engine.aclose()
        with pytest.raises(Unavailable):
            async for _ in events:
                pass


async def test_parameters_are_checked_before_anything_is_queued() -> None:
    async with running(ScriptedBackend()) as engine:
        with pytest.raises(Invalid, match="top_p"):
            await events_of(engine, job(sampling=SamplingParams(top_p=2)))
        assert engine.stats().n_requests == 0


async def test_text_and_tokens_are_each_others_inverse() -> None:
    async with running(ScriptedBackend()) as engine:
        assert await engine.detokenize(await engine.tokenize("grüße")) == "grüße"
    async with running(ScriptedBackend(n_ctx=50_000)) as engine:
        long = "ß" * 20_000
        assert await engine.detokenize(await engine.tokenize(long)) == long


async def test_a_text_that_cannot_fit_is_not_even_encoded() -> None:
    class Counting(ScriptedBackend):
        n_encoded = 0

        def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
            self.n_encoded += 1
            return super().tokenize(text, add_special=add_special, parse_special=parse_special)

    backend = Counting(n_ctx=16)
    async with running(backend) as engine:
        with pytest.raises(ContextOverflow, match="at least 9000 tokens"):
            await engine.tokenize("x" * 9_000)
    assert backend.n_encoded == 0


async def test_many_prompts_are_one_place_in_the_queue() -> None:
    async with running(ScriptedBackend(lambda p: p, n_slots=1), max_queue=1) as engine:
        many = GenerationJob(tuple("abcdefgh"), GenerationParams(n=2))
        events = await events_of(engine, many)
    assert [text(events, i) for i in range(16)] == [c for c in "abcdefgh" for _ in range(2)]


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**32 - 1, 2**63 - 1, 2**64 - 1])
async def test_every_seed_is_a_seed(seed: int) -> None:
    async with running(ScriptedBackend()) as engine:
        once, again = [
            await events_of(engine, job(sampling=SamplingParams(seed=seed), max_tokens=8))
            for _ in range(2)
        ]
    assert text(once) == text(again)


async def test_whatever_fails_in_the_engine_thread_fails_requests_and_not_the_thread() -> None:
    class Mute(ScriptedBackend):
        is_mute = False

        def piece(self, token: int) -> bytes:
            if self.is_mute:
                raise MemoryError
            return super().piece(token)

    backend = Mute()
    async with running(backend) as engine:
        backend.is_mute = True
        with pytest.raises(BackendError):
            await events_of(engine, job(max_tokens=1))
        backend.is_mute = False
        assert len(text(await events_of(engine, job(max_tokens=4)))) == 4


async def test_whoever_leaves_does_not_wait_for_the_call_that_computes_for_nobody_else() -> None:
    backend = ScriptedBackend()
    has_begun, is_interrupted = threading.Event(), threading.Event()

    def compute_until_interrupted() -> None:
        has_begun.set()
        assert is_interrupted.wait(PATIENCE)
        backend.on_decode = lambda: None
        ScriptedBackend.interrupt(backend)

    backend.on_decode = compute_until_interrupted
    backend.interrupt = is_interrupted.set  # type: ignore[method-assign]
    async with running(backend) as engine:
        async with engine.generate(job("abc")):
            assert await asyncio.to_thread(has_begun.wait, PATIENCE)
        await all_slots_free(engine)
        assert len(text(await events_of(engine, job("abc", max_tokens=5)))) == 5


async def test_an_interrupted_call_that_computed_for_others_too_is_repeated() -> None:
    backend = ScriptedBackend()
    calls = itertools.count()
    async with running(ScriptedBackend()) as engine:
        expected = text(await events_of(engine, job("abc", max_tokens=20, sampling=SEEDED)))
    backend.on_decode = lambda: backend.interrupt() if next(calls) % 3 == 1 else None
    async with running(backend) as engine:
        events = await events_of(engine, job("abc", max_tokens=20, sampling=SEEDED))
    assert text(events) == expected
    assert next(calls) > 25


async def test_jobs_of_other_owners_do_not_wait_for_all_of_one() -> None:
    order: list[str] = []
    async with running(ScriptedBackend(n_slots=1)) as engine:

        async def ask(owner: str) -> None:
            await events_of(engine, GenerationJob(("hi",), GenerationParams(max_tokens=20), owner))
            order.append(owner)

        await asyncio.gather(*map(ask, ["alice"] * 6 + ["bob"]))
    assert order.index("bob") <= 2


async def test_an_interrupted_prompt_begins_again_where_a_slot_cannot_go_back() -> None:
    backend = ScriptedBackend(can_truncate=False)
    calls = itertools.count()
    prompt = "a long prompt " * 12
    async with running(ScriptedBackend()) as engine:
        expected = text(await events_of(engine, job(prompt, max_tokens=5, sampling=SEEDED)))
    backend.on_decode = lambda: backend.interrupt() if next(calls) == 1 else None
    async with running(backend) as engine:
        events = await events_of(engine, job(prompt, max_tokens=5, sampling=SEEDED))
    assert text(events) == expected
