"""Medians, percentiles and bootstrap confidence intervals. Knows numbers, and nothing of what they measure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 10_000
CONFIDENCE = 0.95
MEDIAN = 50.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A percentile of some samples and the interval it is believed to lie in (95 %, percentile bootstrap)."""

    value: float
    low: float
    high: float
    n: int
    """Samples it was made of."""

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def estimate(samples: Sequence[float], percent: float = MEDIAN, *, seed: int = 0) -> Estimate:
    """The median, or another percentile, with its interval: the same samples and seed give the same numbers.

    Source of the method: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13 (percentile intervals).
    """
    assert samples, "an estimate needs at least one sample"
    values = np.asarray(samples, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(values), size=(N_RESAMPLES, len(values)))
    resampled = _percentiles(values[draws], percent)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail))
    return Estimate(percentile(samples, percent), float(low), float(high), len(values))


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that `percent` % of the samples do not exceed; for the median, the middle of the samples."""
    assert samples, "a percentile needs at least one sample"
    assert 0 < percent <= 100, f"{percent} is not a percentage of samples"
    return float(_percentiles(np.asarray([samples], dtype=np.float64), percent)[0])


def median(samples: Sequence[float]) -> float:
    """The middle sample, or the mean of the two middle ones."""
    return percentile(samples, MEDIAN)


def _percentiles(rows: NDArray[np.float64], percent: float) -> NDArray[np.float64]:
    # A tail is never interpolated: the p99 of ten samples is the worst of them, not something a little better.
    method = "linear" if percent == MEDIAN else "inverted_cdf"
    return np.percentile(rows, percent, axis=1, method=method)
