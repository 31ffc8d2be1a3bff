"""The seams between layers, as Protocols. Knows shapes; whoever implements one is named in `bootstrap` only."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from hyprstream.core.generation import EngineInfo, EngineStats, GenerationJob, TokenEvent
from hyprstream.core.principal import Action, Decision, Principal, Resource
from hyprstream.core.versions import TextVersion


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
        """Return, or raise Unauthenticated (a credential would help) or Denied (it would not). The answer is audited."""
        ...

    def allows(self, principal: Principal, action: Action, resource: Resource) -> bool:
        """Whether `require` would return; for lists that show what a principal may see. Not audited."""
        ...


class TextHistory(Protocol):
    """One text file under version control: a draft, the running version, and what came before it.

    Revisions are named as git names them: a commit's id or its beginning, `HEAD`, `HEAD~1`.
    """

    @property
    def draft_path(self) -> Path:
        """The file an editor may open."""
        ...

    def draft(self) -> str | None:
        """What the file says now; None if there is none."""
        ...

    def write_draft(self, text: str) -> None:
        """Replace the file, whole or not at all."""
        ...

    def running_id(self) -> str | None:
        """The commit id of the running version, read without starting a process; None before the first."""
        ...

    def at(self, revision: str = "HEAD") -> str:
        """What a version says.

        Raises:
            NotFound: there is no such version.
        """
        ...

    def commit(self, message: str) -> TextVersion | None:
        """Make the draft the running version; None where both say the same."""
        ...

    def log(self, limit: int = 10) -> list[TextVersion]:
        """The versions, newest first; empty before the first."""
        ...


class AuditLog(Protocol):
    """Where decisions are written down."""

    def record(
        self, principal: Principal, action: Action, resource: Resource, decision: Decision
    ) -> None:
        """Write one decision down; never waits for a disk."""
        ...
