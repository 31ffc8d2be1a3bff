"""One decode call and who gets what from it. Knows sequences; knows no costs and no backend."""

from collections.abc import Sequence as Sequences
from dataclasses import dataclass
from typing import Literal

from hyprstream.engine.backend import Span
from hyprstream.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences and how many of their pending tokens are computed now."""

    kind: Literal["prefill", "decode"]
    parts: tuple[tuple[Sequence, int], ...]

    @classmethod
    def decode(cls, sequences: Sequences[Sequence]) -> "Batch":
        """One token of each."""
        return cls("decode", tuple((sequence, 1) for sequence in sequences))

    @property
    def spans(self) -> list[Span]:
        """What the backend is given; a span is an output when it computes the last pending token."""
        spans: list[Span] = []
        for sequence, n in self.parts:
            assert sequence.slot is not None, "a running sequence always holds a slot"
            start = sequence.n_computed
            spans.append(
                Span(
                    sequence.slot,
                    start,
                    sequence.tokens[start : start + n],
                    is_output=n == sequence.n_pending,
                )
            )
        return spans

    @property
    def n_tokens(self) -> int:
        return sum(n for _, n in self.parts)

    @property
    def depth(self) -> int:
        """Tokens before the deepest part."""
        return max(sequence.n_computed for sequence, _ in self.parts)
