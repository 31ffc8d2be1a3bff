"""What a decode call costs, learned from those that ran. Knows token counts, depths and milliseconds; knows no clock.

Two laws, each with constants that depend on model and machine:

    a prompt token at depth d      prefill(d) = prefill(0) + attention * d
    one step of n sequences        decode(n, d) = base(n) + attention * n * d,   d = the deepest of them

The second is llama.cpp's: sequences that are computed together are all padded to the deepest.
"""

BUCKET = 512
"""Depths are told apart in steps of this many tokens."""
SMOOTHING = 0.25
"""Weight of the newest measurement in a running mean."""
DEFAULT_PREFILL_MS = 2.0
LEAST_MS = 1e-6
"""Nothing is free, whatever a coarse clock says."""


class CostModel:
    """Running means of measured costs, in milliseconds."""

    def __init__(self) -> None:
        self._prefill: dict[int, float] = {}
        self._base: dict[int, float] = {}

    def observe_prefill(self, n_tokens: int, depth: int, ms: float) -> None:
        """A chunk of `n_tokens` prompt tokens after `depth` others took `ms`."""
        # A handful of tokens does not fill the matrix kernels and says nothing about the rate.
        if n_tokens >= 8:
            _update(self._prefill, depth // BUCKET, ms / n_tokens)

    def observe_decode(self, n_sequences: int, depth: int, ms: float) -> None:
        """One step of `n_sequences`, the deepest with `depth` tokens, took `ms`."""
        attention = self.attention_ms * n_sequences * depth
        _update(self._base, n_sequences, max(ms - attention, 0.1 * ms))

    def prefill_ms(self, depth: int) -> float:
        """One prompt token at this depth."""
        if not self._prefill:
            return DEFAULT_PREFILL_MS
        bucket = depth // BUCKET
        known = min(self._prefill, key=lambda other: abs(other - bucket))
        return self._prefill[known] + self.attention_ms * BUCKET * (bucket - known)

    def decode_ms(self, n_sequences: int, depth: int) -> float:
        """One step of `n_sequences`; guessed from the nearest number if none like it was ever seen."""
        attention = self.attention_ms * n_sequences * depth
        if not self._base:
            return attention
        known = min(self._base, key=lambda other: abs(other - n_sequences))
        return self._base[known] * n_sequences / known + attention

    @property
    def attention_ms(self) -> float:
        """What one more token of depth adds to one row; 0 until prompts of two depths were seen."""
        if len(self._prefill) < 2:
            return 0.0
        shallow, deep = min(self._prefill), max(self._prefill)
        rise = self._prefill[deep] - self._prefill[shallow]
        return max(rise, 0.0) / ((deep - shallow) * BUCKET)


def _update(means: dict[int, float], key: int, value: float) -> None:
    old = means.get(key)
    value = max(value, LEAST_MS)
    means[key] = value if old is None else old + SMOOTHING * (value - old)
