"""One token stream being extended. Knows token ids and how far they are computed; knows no slot contents and no text."""

from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

from hyprstream.core.generation import FinishReason, GenerationParams


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt and what has been generated after it. Owned by the scheduler from `add` until it is finished.

    ```
    tokens:  [ prompt ............................ | generated ........ ]
             [0, n_cached)          reused from another computation
             [0, n_computed)        its KV is in the slot
                        [n_computed, n_tokens)     still to be computed: n_pending
    ```
    """

    prompt: Tokens[int]
    params: GenerationParams
    max_tokens: int
    seed: int
    job: str
    """Sequences share computed prefixes only with those of the same job."""
    owner: str = ""
    """Who it is computed for; owners are given slots in turn."""
    leader: "Sequence | None" = None
    """The sequence with the same prompt that computes it; this one waits for that."""
    tokens: list[int] = field(init=False)
    slot: int | None = None
    n_computed: int = 0
    n_cached: int = 0
    finish: FinishReason | None = None
    is_aborted: bool = False
    leased: float | None = None
    """When it was given its slot, in seconds of the engine's clock."""

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)

    @property
    def n_prompt(self) -> int:
        return len(self.prompt)

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def n_generated(self) -> int:
        return self.n_tokens - self.n_prompt

    @property
    def n_pending(self) -> int:
        """Tokens whose KV is not computed yet."""
        return self.n_tokens - self.n_computed

    @property
    def is_prefilling(self) -> bool:
        """Whether the first token is still to come."""
        return self.n_tokens == self.n_prompt

    @property
    def is_over(self) -> bool:
        return self.finish is not None or self.is_aborted

    @property
    def is_ready(self) -> bool:
        """Whether it may be given a slot: nobody else is computing its prompt right now."""
        leader = self.leader
        return leader is None or leader.is_over or not leader.is_prefilling
