"""How servers are compared fairly: the same prompts, the order A B B A, a quiet machine, ratios of neighbours.

Knows order and ratios; knows no HTTP and no scenario.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from hyprstream.bench.statistics import Estimate, estimate
from hyprstream.core.errors import Invalid

Side = TypeVar("Side")


class Comparable(Protocol):
    """One measurement of one side."""

    @property
    def token_counts(self) -> list[tuple[int, int]]:
        """Prompt and completion tokens of each stream."""
        ...


Measured = TypeVar("Measured", bound=Comparable)


def there_and_back(sides: Sequence[Side]) -> Iterator[tuple[int, Side]]:
    """One round: A B B A. With each side comes 0 on the way there and 1 on the way back, to choose its prompts by.

    Whatever drifts steadily (heat, a neighbour) then weighs the same on every side, and no side sees a prompt twice.
    """
    yield from ((0, side) for side in sides)
    yield from ((1, side) for side in reversed(sides))


def ratios(
    ours: Sequence[Measured], theirs: Sequence[Measured], measure: Callable[[Measured], float]
) -> Estimate:
    """`measure` of ours over theirs, each pair with the same prompts and next to each other in time.

    Raises:
        Invalid: the sides did different work, so that a ratio would say nothing.
    """
    assert len(ours) == len(theirs), f"{len(ours)} measurements cannot be paired with {len(theirs)}"
    for mine, other in zip(ours, theirs, strict=True):
        require_same_work(mine, other)
    return estimate([measure(a) / measure(b) for a, b in zip(ours, theirs, strict=True)])


def require_same_work(ours: Comparable, theirs: Comparable) -> None:
    """Refuse to compare answers of different lengths.

    Raises:
        Invalid: a stream has another number of prompt or completion tokens on the other side.
    """
    pairs = zip(ours.token_counts, theirs.token_counts, strict=True)
    for index, (mine, other) in enumerate(pairs):
        if mine != other:
            raise Invalid(
                f"not comparable: stream {index} has {mine[0]} prompt and {mine[1]} completion tokens here,"
                f" {other[0]} and {other[1]} there",
                hint="does every server honour `ignore_eos`, `max_tokens` and prompts of token ids?",
            )
