"""What the engine asks of whatever computes. Knows slots, token ids and positions; knows no text, users or scheduling."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hyprstream.core.generation import EngineInfo, SamplingParams, TokenLogprob


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one slot at the consecutive positions start, start + 1, ... of one decode call."""

    slot: int
    start: int
    tokens: Sequence[int]
    is_output: bool
    """Whether a token is to be sampled after the last of these."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A sampled token."""

    token: int
    logprob: TokenLogprob | None = None


@dataclass(frozen=True, slots=True)
class SamplerSpec:
    """How one slot's tokens are chosen from now on."""

    params: SamplingParams
    seed: int
    ignore_eos: bool
    n_logprobs: int | None
    prompt: Sequence[int]
    """Penalties look back on it."""


class Interrupted(Exception):
    """A decode call that was told to stop. What its slots hold beyond where they were before is not certain."""


class Backend(Protocol):
    """Token ids into slots, token ids out. Everything but the vocabulary and `interrupt` is called by one thread only."""

    @property
    def info(self) -> EngineInfo:
        """What is loaded, and the sizes that bound every call: slots, tokens per slot."""
        ...

    @property
    def n_batch(self) -> int:
        """Most tokens of one decode call."""
        ...

    @property
    def longest_piece(self) -> int:
        """Bytes of the longest token: no text has fewer tokens than its length in these."""
        ...

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of a text. `add_special` adds what the vocabulary wants at the start and the end."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; empty for control tokens."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""
        ...

    def set_sampler(self, slot: int, spec: SamplerSpec) -> None:
        """Choose this slot's tokens as `spec` says, until it is set again.

        Raises:
            Invalid: a value the sampler does not accept.
        """
        ...

    def decode(self, batch: Sequence[Span]) -> list[Sample]:
        """Compute every span and sample once for each output span, in order.

        Raises:
            Interrupted: somebody called `interrupt`; truncate these slots to what they held.
            BackendError: nothing is certain about any slot any more; `reset` comes next.
        """
        ...

    def interrupt(self) -> None:
        """Make the decode call that is running now, if one is, stop at once. Any thread may call it."""
        ...

    def truncate(self, slot: int, n_tokens: int) -> bool:
        """Forget what the slot holds from position `n_tokens` on. False: not possible here, and now it holds nothing."""
        ...

    def copy(self, source: int, target: int, n_tokens: int) -> bool:
        """Make `target` hold the first `n_tokens` of `source`. False: not possible here, and now it holds nothing."""
        ...

    def reset(self) -> None:
        """Empty every slot, after an error too.

        Raises:
            BackendError: it cannot be brought back.
        """
        ...

    def close(self) -> None:
        """Give the memory back. Nothing may be called afterwards."""
        ...
