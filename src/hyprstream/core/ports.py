"""The seams between layers, as Protocols. Knows shapes; whoever implements one is named in `bootstrap` only."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from hyprstream.core.generation import EngineInfo, EngineStats, GenerationJob, TokenEvent
from hyprstream.core.principal import Action, Principal, Resource


class EngineClient(Protocol):
    """A loaded model that continues prompts.

    This is a process boundary in waiting: everything that crosses it is small and serialisable, and cancelling is
    leaving the `generate` block.
    """

    @property
    def info(self) -> EngineInfo:
        """What is loaded."""
        ...

    @property
    def is_alive(self) -> bool:
        """False once it is closed, or has failed for good."""
        ...

    def generate(
        self, job: GenerationJob
    ) -> AbstractAsyncContextManager[AsyncGenerator[TokenEvent]]:
        """Continue a prompt. Entering the block queues the job; leaving it, however, frees its slots within one step.

        Raises:
            Invalid: a parameter is outside its range.
            ContextOverflow: the prompt does not leave room for one token.
            QueueFull: too many jobs wait already.
            BackendError: the engine failed while this job was running (raised from the generator).
        """
        ...

    async def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = True
    ) -> list[int]:
        """Token ids of a text."""
        ...

    async def detokenize(self, tokens: list[int]) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD."""
        ...

    def check_room(self) -> None:
        """Raise QueueFull if a job submitted now would be refused; costs nothing, so ask it before rendering."""
        ...

    def stats(self) -> EngineStats:
        """Counters and gauges of this moment."""
        ...

    async def aclose(self) -> None:
        """End every job with Unavailable and give the memory back."""
        ...


class Policy(Protocol):
    """Says whether a principal may do something. Asked on the first line of every use case."""

    def require(self, principal: Principal, action: Action, resource: Resource) -> None:
        """Return, or raise Unauthenticated (a credential would help) or Denied (it would not)."""
        ...
