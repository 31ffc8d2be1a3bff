"""Which parameters are accepted."""

import math
from dataclasses import fields, replace

import pytest

from hyprstream.core.errors import Invalid
from hyprstream.core.generation import GenerationParams, SamplingParams
from hyprstream.engine.sampling import LLAMA_RANDOM_SEED, check_params, sampler_seed

BAD: list[tuple[str, object]] = [
    ("temperature", -0.1),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("top_k", -1),
    ("top_k", -(2**31)),
    ("top_p", 1.01),
    ("min_p", -1.0),
    ("typical_p", 2.0),
    ("repeat_penalty", 0.0),
    ("frequency_penalty", 2.5),
    ("presence_penalty", -2.5),
    ("repeat_last_n", -2),
    ("dry_multiplier", -1.0),
    ("dry_base", math.inf),
    ("dry_allowed_length", -1),
    ("dry_penalty_last_n", -2),
    ("dry_sequence_breakers", ("x",) * 33),
    ("xtc_probability", 1.5),
    ("xtc_threshold", -0.1),
    ("mirostat", 3),
    ("mirostat_tau", -1.0),
    ("mirostat_eta", math.nan),
    ("logit_bias", ((99, 1.0),)),
    ("logit_bias", ((1, math.nan),)),
    ("seed", 2**64),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_sampling_parameter_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    params = replace(SamplingParams(), **{name: value})
    with pytest.raises(Invalid) as refusal:
        check_params(GenerationParams(params), n_vocab=99)
    assert refusal.value.param == name


@pytest.mark.parametrize(
    ("params", "param"),
    [
        (GenerationParams(n=0), "n"),
        (GenerationParams(n=129), "n"),
        (GenerationParams(max_tokens=0), "max_tokens"),
        (GenerationParams(n_logprobs=21), "top_logprobs"),
        (GenerationParams(stop=("",)), "stop"),
        (GenerationParams(stop=("x",) * 17), "stop"),
    ],
)
def test_a_generation_parameter_out_of_range_is_refused_by_name(
    params: GenerationParams, param: str
) -> None:
    with pytest.raises(Invalid) as refusal:
        check_params(params, n_vocab=99)
    assert refusal.value.param == param


def test_the_defaults_are_valid() -> None:
    check_params(GenerationParams(), n_vocab=99)


def test_every_sampling_parameter_has_a_test_of_its_range() -> None:
    assert {name for name, _ in BAD} == {field.name for field in fields(SamplingParams)}


def test_no_seed_means_a_random_one_to_llama_cpp() -> None:
    # The inverse of the multiplier leads to the 64-bit seeds that hash to the value llama.cpp would take for "draw one".
    inverse = pow(0x9E3779B97F4A7C15, -1, 2**64)
    unlucky = (LLAMA_RANDOM_SEED << 32) * inverse % 2**64
    assert sampler_seed(unlucky, 0) != LLAMA_RANDOM_SEED
    assert sampler_seed(7, 1) == sampler_seed(8, 0), "choice i samples with seed + i"
    assert len({sampler_seed(seed, 0) for seed in (7, 7 + 2**32, -1, 2**32 - 1, 2**64 - 2)}) == 5
