"""Which slot holds what, and for which job. Knows token ids and jobs; calls no backend."""

from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

from hyprstream.engine.sequence import Sequence


@dataclass(slots=True)
class _Slot:
    holder: Sequence | None = None
    job: str | None = None
    tokens: list[int] = field(default_factory=list[int])
    """What it still holds after its holder has gone."""

    @property
    def contents(self) -> list[int]:
        holder = self.holder
        return self.tokens if holder is None else holder.tokens[: holder.n_computed]


@dataclass(frozen=True, slots=True)
class Lease:
    """A slot for a sequence, and where the beginning of its tokens is computed already."""

    slot: int
    source: int
    """The slot that holds those `n_reused` tokens; it may be `slot` itself."""
    n_reused: int


class Slots:
    """The backend's sequence ids. The lowest free one is leased first, which keeps the busy ones neighbours: llama.cpp
    computes a run of consecutive ids as one matrix, and every gap starts another."""

    def __init__(self, n_slots: int) -> None:
        self._slots = [_Slot() for _ in range(n_slots)]

    @property
    def n_busy(self) -> int:
        return sum(slot.holder is not None for slot in self._slots)

    @property
    def has_free(self) -> bool:
        return self.n_busy < len(self._slots)

    def lease(self, sequence: Sequence) -> Lease:
        """Give a free slot to `sequence`, reusing the longest computed prefix of the same job.

        The last prompt token is never reused: computing it gives the logits of the first token.
        """
        source, n_reused = self._longest_prefix(sequence)
        if n_reused and self._slots[source].holder is None:
            slot = source
        else:
            slot = next(i for i, slot in enumerate(self._slots) if slot.holder is None)
        lease = Lease(slot, source if n_reused else slot, n_reused)
        self._slots[slot] = _Slot(sequence, sequence.job)
        return lease

    def release(self, sequence: Sequence) -> None:
        """Take the slot of `sequence` back; what it holds may be reused by the same job."""
        assert sequence.slot is not None, "only a sequence that holds a slot gives one back"
        slot = self._slots[sequence.slot]
        assert slot.holder is sequence, "a slot has one holder"
        slot.tokens, slot.holder = slot.contents, None

    def forget(self) -> None:
        """The backend lost everything; no slot has a holder any more."""
        self._slots = [_Slot() for _ in self._slots]

    def holder(self, slot: int) -> Sequence | None:
        """The sequence that holds a slot."""
        return self._slots[slot].holder

    def _longest_prefix(self, sequence: Sequence) -> tuple[int, int]:
        best, n_best = 0, 0
        for i, slot in enumerate(self._slots):
            if slot.job == sequence.job:
                n = common_prefix(slot.contents, sequence.prompt)
                if n > n_best:
                    best, n_best = i, n
        return best, min(n_best, sequence.n_prompt - 1)


def common_prefix(a: Tokens[int], b: Tokens[int]) -> int:
    """Number of leading tokens two sequences share."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
