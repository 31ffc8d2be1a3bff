"""Numbers that claims are made of."""

import numpy as np
import pytest

from hyprstream.bench.statistics import estimate, median, percentile


def test_the_median_of_an_even_number_of_samples_lies_between_the_middle_two() -> None:
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5


def test_a_tail_percentile_is_always_a_sample_that_was_measured() -> None:
    assert percentile([float(n) for n in range(1, 11)], 99) == 10.0
    assert percentile([float(n) for n in range(1, 201)], 99) == 198.0


def test_the_interval_encloses_the_median_and_stays_within_the_samples() -> None:
    samples = [1.02, 1.10, 1.05, 0.99, 1.07]
    found = estimate(samples)
    assert min(samples) <= found.low <= found.value == 1.05 <= found.high <= max(samples)
    assert found.n == 5


def test_the_same_samples_and_seed_give_the_same_interval() -> None:
    samples = [0.9, 1.1, 1.3, 1.0]
    assert estimate(samples) == estimate(samples)


def test_more_samples_of_the_same_thing_give_a_narrower_interval() -> None:
    generator = np.random.default_rng(7)
    few, many = (generator.normal(1.0, 0.1, n).tolist() for n in (8, 512))
    assert estimate(many).high - estimate(many).low < estimate(few).high - estimate(few).low


def test_about_95_of_100_intervals_enclose_the_true_median() -> None:
    generator = np.random.default_rng(1)
    found = [estimate(generator.normal(10.0, 1.0, 40).tolist()) for _ in range(100)]
    assert 88 <= sum(e.low <= 10.0 <= e.high for e in found) <= 100


def test_equal_samples_leave_no_doubt() -> None:
    found = estimate([2.0, 2.0, 2.0])
    assert (found.low, found.value, found.high) == (2.0, 2.0, 2.0)


def test_the_interval_of_a_tail_is_that_of_the_tail() -> None:
    samples = [1.0] * 99 + [50.0]
    assert estimate(samples, 99).value == 1.0
    assert estimate(samples, 99).high == 50.0


def test_no_samples_are_no_estimate() -> None:
    with pytest.raises(AssertionError, match="at least one sample"):
        estimate([])
