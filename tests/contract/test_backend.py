"""What every backend promises, asked of each: the scripted one and llama.cpp with the real model."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hyprstream.core.errors import BackendError
from hyprstream.core.generation import SamplingParams
from hyprstream.engine.backend import Backend, Interrupted, SamplerSpec, Span
from hyprstream.engine.llamacpp import LlamaCppBackend, LlamaCppOptions
from hyprstream.engine.scripted import ScriptedBackend

TEXT = "The first thing to know about the sea is that it is"
GREEDY = SamplingParams(temperature=0)


@pytest.fixture(scope="module", params=["scripted", "llama.cpp"])
def loaded(request: pytest.FixtureRequest, smollm2_path: Path) -> Iterator[Backend]:
    options = LlamaCppOptions(n_ctx=256, n_slots=3, n_batch=64, n_threads=2)
    backend: Backend = (
        ScriptedBackend(n_slots=3, n_ctx=256, n_batch=64)
        if request.param == "scripted"
        else LlamaCppBackend(smollm2_path, options)
    )
    yield backend
    backend.close()


@pytest.fixture
def backend(loaded: Backend) -> Backend:
    loaded.reset()
    return loaded


def tokens_of(backend: Backend, text: str = TEXT) -> list[int]:
    return backend.tokenize(text, add_special=True, parse_special=True)


def use(
    backend: Backend,
    slot: int,
    prompt: list[int],
    params: SamplingParams = GREEDY,
    *,
    seed: int = 1,
    n_logprobs: int | None = None,
    ignore_eos: bool = True,
) -> None:
    spec = SamplerSpec(params, seed, ignore_eos, n_logprobs, prompt)
    backend.set_sampler(slot, spec)


def go_on(backend: Backend, slot: int, pending: list[int], start: int, n: int = 8) -> list[int]:
    """Feed `pending`, then sample n tokens, each fed back."""
    out: list[int] = []
    for _ in range(n):
        [sample] = backend.decode([Span(slot, start, pending, is_output=True)])
        out.append(sample.token)
        start, pending = start + len(pending), [sample.token]
    return out


def continuation(backend: Backend, slot: int = 0, text: str = TEXT, n: int = 8) -> list[int]:
    prompt = tokens_of(backend, text)
    assert backend.truncate(slot, 0)
    use(backend, slot, prompt)
    return go_on(backend, slot, prompt, 0, n)


def test_a_prompt_in_chunks_continues_like_one_in_a_piece(backend: Backend) -> None:
    whole, prompt = continuation(backend), tokens_of(backend)
    use(backend, 1, prompt)
    assert backend.decode([Span(1, 0, prompt[:5], is_output=False)]) == []
    assert go_on(backend, 1, prompt[5:], 5) == whole


def test_a_call_that_is_interrupted_stops_and_the_slot_goes_on_from_where_it_was(
    backend: Backend,
) -> None:
    whole, prompt = continuation(backend), tokens_of(backend)
    use(backend, 1, prompt)
    backend.decode([Span(1, 0, prompt[:5], is_output=False)])
    with interrupting(backend), pytest.raises(Interrupted):
        while True:  # until an interruption hits a call that is running
            backend.decode([Span(1, 5, prompt[5:], is_output=True)])
            assert backend.truncate(1, 5)
    assert backend.truncate(1, 5)
    assert go_on(backend, 1, prompt[5:], 5) == whole


def test_an_interruption_between_calls_interrupts_nothing(backend: Backend) -> None:
    whole = continuation(backend)
    backend.interrupt()
    assert continuation(backend) == whole


@contextmanager
def interrupting(backend: Backend) -> Iterator[None]:
    """Interrupt whatever the backend computes, again and again, from another thread."""
    if isinstance(backend, ScriptedBackend):
        backend.on_decode = backend.interrupt
    is_over = threading.Event()

    def interrupt() -> None:
        while not is_over.wait(0.001):
            backend.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        if isinstance(backend, ScriptedBackend):
            backend.on_decode = lambda: None


def test_slots_do_not_see_each_other(backend: Backend) -> None:
    expected = continuation(backend)
    continuation(backend, 1, "Something else entirely.")
    assert continuation(backend, 2) == expected


def test_every_output_span_of_a_batch_gets_its_sample_in_order(backend: Backend) -> None:
    texts = ["one two three", "un deux trois quatre", "eins zwei"]
    expected = [continuation(backend, i, text, 1)[0] for i, text in enumerate(texts)]
    backend.reset()
    prompts = [tokens_of(backend, text) for text in texts]
    for slot, prompt in enumerate(prompts):
        use(backend, slot, prompt)
    spans = [Span(slot, 0, prompt, is_output=slot != 1) for slot, prompt in enumerate(prompts)]
    assert [s.token for s in backend.decode(spans)] == [expected[0], expected[2]]


def test_what_is_truncated_is_forgotten(backend: Backend) -> None:
    prompt, expected = tokens_of(backend), continuation(backend)
    assert backend.truncate(0, len(prompt) - 1)
    assert go_on(backend, 0, prompt[-1:], len(prompt) - 1) == expected


def test_a_copy_goes_on_like_the_original_and_leaves_it_alone(backend: Backend) -> None:
    prompt, expected = tokens_of(backend), continuation(backend, n=12)
    continuation(backend, 0, n=4)
    assert backend.copy(0, 2, len(prompt) - 1)
    use(backend, 2, prompt)
    assert go_on(backend, 2, prompt[-1:], len(prompt) - 1, 12) == expected
    # The original holds its prompt and the first three it generated; the fourth is pending.
    assert go_on(backend, 0, [expected[3]], len(prompt) + 3, 8) == expected[4:]


def test_reset_empties_every_slot(backend: Backend) -> None:
    expected = continuation(backend)
    backend.reset()
    prompt = tokens_of(backend)
    use(backend, 0, prompt)
    assert go_on(backend, 0, prompt, 0) == expected


def test_positions_that_do_not_follow_are_an_error_and_reset_mends_it(backend: Backend) -> None:
    expected = continuation(backend)
    with pytest.raises(BackendError):
        backend.decode([Span(0, 200, [5], is_output=False)])
    backend.reset()
    assert continuation(backend) == expected


def test_the_same_seed_draws_the_same_tokens(backend: Backend) -> None:
    prompt, params = tokens_of(backend), SamplingParams(temperature=1.5, top_k=0)

    def draw(seed: int) -> list[int]:
        assert backend.truncate(0, 0)
        use(backend, 0, prompt, params, seed=seed)
        return go_on(backend, 0, prompt, 0)

    assert draw(1) == draw(1)
    assert len({tuple(draw(seed)) for seed in range(4)}) > 1


def test_log_probabilities_come_best_first_and_only_when_asked(backend: Backend) -> None:
    prompt = tokens_of(backend)
    use(backend, 0, prompt, n_logprobs=3)
    [sample] = backend.decode([Span(0, 0, prompt, is_output=True)])
    assert sample.logprob is not None
    assert sample.logprob.token == sample.token
    top = sample.logprob.top
    assert len(top) == 3
    assert [t.logprob for t in top] == sorted((t.logprob for t in top), reverse=True)
    assert all(t.logprob <= 0 for t in top)
    use(backend, 1, prompt)
    [sample] = backend.decode([Span(1, 0, prompt, is_output=True)])
    assert sample.logprob is None


def test_pieces_join_to_the_text(backend: Backend) -> None:
    text = "Zwölf Boxkämpfer jagen Viktor 🥊 über den Sylter Deich"
    tokens = backend.tokenize(text, add_special=False, parse_special=False)
    assert b"".join(map(backend.piece, tokens)).decode() == text
