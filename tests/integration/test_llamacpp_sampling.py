"""Each sampling parameter does something to the real model, and what is switched off does nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hyprstream.core.generation import SamplingParams
from hyprstream.engine.backend import SamplerSpec, Span
from hyprstream.engine.llamacpp import LlamaCppBackend, LlamaCppOptions

PROMPT = "The cat sat on the mat. The cat sat on the mat. The cat sat on the"
NEUTRAL = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
GREEDY = SamplingParams(temperature=0)


@pytest.fixture(scope="module")
def backend(smollm2_path: Path) -> Iterator[LlamaCppBackend]:
    backend = LlamaCppBackend(smollm2_path, LlamaCppOptions(n_ctx=256, n_slots=1, n_threads=2))
    yield backend
    backend.close()


def draw(
    backend: LlamaCppBackend,
    params: SamplingParams,
    *,
    n: int = 24,
    prompt: str = PROMPT,
    seed: int = 3,
    ignore_eos: bool = False,
) -> list[int]:
    pending = backend.tokenize(prompt, add_special=True, parse_special=True)
    backend.set_sampler(0, SamplerSpec(params, seed, ignore_eos, None, pending))
    assert backend.truncate(0, 0)
    start, out = 0, list[int]()
    for _ in range(n):
        [sample] = backend.decode([Span(0, start, pending, is_output=True)])
        out.append(sample.token)
        start, pending = start + len(pending), [sample.token]
    return out


def test_greedy_without_a_sampler_chain_is_llama_cpps_own_greedy(backend: LlamaCppBackend) -> None:
    # A bias too small to matter makes the backend build the chain.
    with_chain = SamplingParams(temperature=0, logit_bias=((0, 1e-30),))
    assert draw(backend, GREEDY) == draw(backend, with_chain)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.2, top_k=0, top_p=1.0, min_p=0.0),
        SamplingParams(temperature=1.0, top_k=2, top_p=1.0, min_p=0.0),
        SamplingParams(temperature=1.0, top_k=0, top_p=0.1, min_p=0.0),
        SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.5),
        SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=0.1),
        SamplingParams(
            temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, xtc_probability=1.0, xtc_threshold=0.02
        ),
        SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, mirostat=1, mirostat_tau=1),
        SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, mirostat=2, mirostat_tau=1),
    ],
)
def test_a_sampler_changes_what_is_drawn(backend: LlamaCppBackend, params: SamplingParams) -> None:
    assert draw(backend, params) != draw(backend, NEUTRAL)
    assert draw(backend, params) == draw(backend, params), "and the same seed draws it again"


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0, repeat_penalty=1.8),
        SamplingParams(temperature=0, frequency_penalty=2.0),
        SamplingParams(temperature=0, presence_penalty=2.0, repeat_last_n=-1),
        SamplingParams(temperature=0, dry_multiplier=5.0),
    ],
)
def test_a_penalty_breaks_a_repetition(backend: LlamaCppBackend, params: SamplingParams) -> None:
    assert draw(backend, params) != draw(backend, GREEDY)


def test_penalties_look_back_no_further_than_they_are_told(backend: LlamaCppBackend) -> None:
    forgetful = SamplingParams(temperature=0, repeat_penalty=1.8, repeat_last_n=0)
    assert draw(backend, forgetful) == draw(backend, GREEDY)


def test_a_banned_token_is_never_drawn_and_a_favoured_one_always(backend: LlamaCppBackend) -> None:
    first = draw(backend, GREEDY, n=1)[0]
    banned = draw(backend, SamplingParams(temperature=0, logit_bias=((first, -100.0),)))
    assert first not in banned
    favoured = draw(backend, SamplingParams(temperature=1.0, logit_bias=((777, 100.0),)), n=4)
    assert favoured == [777] * 4


def test_an_end_that_is_ignored_is_never_drawn(backend: LlamaCppBackend) -> None:
    question = "<|im_start|>user\nSay yes.<|im_end|>\n<|im_start|>assistant\n"
    ends = [t for t in draw(backend, GREEDY, n=100, prompt=question) if backend.is_end(t)]
    assert ends, "this answer ends by itself"
    ignoring = draw(backend, GREEDY, n=100, prompt=question, ignore_eos=True)
    assert not any(backend.is_end(token) for token in ignoring)
