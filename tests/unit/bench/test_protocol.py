"""Fair comparisons, and the refusal of others."""

from dataclasses import dataclass

import pytest

from hyprstream.bench.protocol import ratios, require_same_work, there_and_back
from hyprstream.core.errors import Invalid


@dataclass(frozen=True)
class Measurement:
    rate: float
    token_counts: list[tuple[int, int]]


def measurement(rate: float, *counts: tuple[int, int]) -> Measurement:
    return Measurement(rate, list(counts or [(32, 64)]))


def test_two_sides_take_turns_as_a_b_b_a() -> None:
    assert [side for _, side in there_and_back("AB")] == ["A", "B", "B", "A"]


def test_no_side_gets_the_same_half_twice() -> None:
    turns = list(there_and_back("ABC"))
    assert [side for _, side in turns] == ["A", "B", "C", "C", "B", "A"]
    assert len(set(turns)) == len(turns)


def test_a_ratio_is_made_of_pairs_with_the_same_prompts() -> None:
    ours = [measurement(20.0), measurement(30.0), measurement(44.0)]
    theirs = [measurement(10.0), measurement(20.0), measurement(20.0)]
    found = ratios(ours, theirs, lambda m: m.rate)
    assert (found.value, found.low, found.high, found.n) == (2.0, 1.5, 2.2, 3)


def test_a_ratio_of_answers_with_different_lengths_is_refused() -> None:
    ours, theirs = [measurement(20.0, (32, 64), (32, 64))], [measurement(10.0, (32, 64), (32, 12))]
    with pytest.raises(Invalid, match="stream 1 has 32 prompt and 64 completion tokens here"):
        ratios(ours, theirs, lambda m: m.rate)


def test_a_ratio_of_prompts_with_different_lengths_is_refused() -> None:
    with pytest.raises(Invalid, match="33 and 64 there"):
        require_same_work(measurement(1.0, (32, 64)), measurement(1.0, (33, 64)))
