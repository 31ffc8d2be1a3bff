"""Which sampling and generation parameters are valid. Knows ranges; knows no sampler."""

import math

from hyprstream.core.errors import Invalid
from hyprstream.core.generation import GenerationParams, SamplingParams

MAX_CHOICES = 128
MAX_STOPS = 16
MAX_STOP_LENGTH = 1024
MAX_LOGPROBS = 20
MAX_BREAKERS = 32
LLAMA_RANDOM_SEED = 0xFFFFFFFF

_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_k": (0, 2**31 - 1),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "repeat_penalty": (0.01, 10.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
    "repeat_last_n": (-1, 2**20),
    "dry_multiplier": (0.0, 100.0),
    "dry_base": (0.0, 100.0),
    "dry_allowed_length": (0, 2**20),
    "dry_penalty_last_n": (-1, 2**20),
    "xtc_probability": (0.0, 1.0),
    "xtc_threshold": (0.0, 1.0),
    "mirostat": (0, 2),
    "mirostat_tau": (0.0, 15.0),
    "mirostat_eta": (0.0, 1.0),
}
"""Smallest and largest accepted value of each number. Beyond a tau of 15 llama.cpp's mirostat overflows its integers."""


def sampler_seed(seed: int, choice: int) -> int:
    """The 32-bit seed of one choice's samplers, from the request's seed of up to 64 bits.

    Fibonacci hashing, so that every bit counts; llama.cpp takes the largest value for "draw one", so that is left out.
    """
    mixed = ((seed + choice) * 0x9E3779B97F4A7C15 % 2**64) >> 32
    return mixed if mixed != LLAMA_RANDOM_SEED else 0


def check_params(params: GenerationParams, *, n_vocab: int = 2**31) -> None:
    """Raise Invalid, naming the parameter and its range, unless every value is one that can be honoured."""
    _check_sampling(params.sampling, n_vocab)
    _check_range("n", params.n, 1, MAX_CHOICES)
    if params.max_tokens is not None:
        _check_range("max_tokens", params.max_tokens, 1, 2**31 - 1)
    if params.n_logprobs is not None:
        _check_range("top_logprobs", params.n_logprobs, 0, MAX_LOGPROBS)
    _check_range("the number of stop strings", len(params.stop), 0, MAX_STOPS, param="stop")
    for stop in params.stop:
        _check_range("the length of a stop string", len(stop), 1, MAX_STOP_LENGTH, param="stop")


def _check_sampling(params: SamplingParams, n_vocab: int) -> None:
    for name, (low, high) in _RANGES.items():
        _check_range(name, getattr(params, name), low, high)
    if params.seed is not None:
        _check_range("seed", params.seed, -(2**63), 2**64 - 1)
    for token, bias in params.logit_bias:
        _check_range("a token id in logit_bias", token, 0, n_vocab - 1, param="logit_bias")
        if math.isnan(bias):
            raise Invalid("a bias in logit_bias is not a number", param="logit_bias")
    _check_range(
        "the number of dry_sequence_breakers",
        len(params.dry_sequence_breakers),
        0,
        MAX_BREAKERS,
        param="dry_sequence_breakers",
    )


def _check_range(
    what: str, value: float, low: float, high: float, *, param: str | None = None
) -> None:
    if not low <= value <= high:  # NaN is in no range
        raise Invalid(
            f"{what} is {value}, which is not between {low} and {high}", param=param or what
        )
