"""Reading the audit log. Knows who may; how it is written and checked is the log's business."""

from collections.abc import Callable, Generator, Iterator
from datetime import datetime
from pathlib import Path

from hyprstream.core.ports import Policy
from hyprstream.core.principal import Action, Principal, Resource
from hyprstream.policy import audit
from hyprstream.policy.audit import AuditEntry, VerifyReport

AUDIT = Resource("audit")


class AuditService:
    """Checks and searches the audit log in a directory."""

    def __init__(self, policy: Policy, directory: Path) -> None:
        self._policy = policy
        self._directory = directory

    def verify(self, principal: Principal) -> VerifyReport:
        """Whether the log is as it was written, and the first place where it is not."""
        self._policy.require(principal, Action.QUERY, AUDIT)
        return audit.verify(self._directory)

    def tail(self, principal: Principal, n: int) -> list[AuditEntry]:
        """The last `n` entries, oldest first."""
        self._policy.require(principal, Action.QUERY, AUDIT)
        return audit.tail(self._directory, n)

    def follow(
        self, principal: Principal, n: int, wait: Callable[[], None]
    ) -> Generator[AuditEntry]:
        """The last `n` entries and then every new one, without end. `wait` is called between two looks."""
        self._policy.require(principal, Action.QUERY, AUDIT)
        return self._follow(n, wait)

    def grep(
        self,
        principal: Principal,
        subject: str | None = None,
        action: Action | None = None,
        resource: str | None = None,
        denied_only: bool = False,
        since: datetime | None = None,
    ) -> Iterator[AuditEntry]:
        """The decisions that fit, oldest first. `subject` and `resource` are patterns as a rule has them."""
        self._policy.require(principal, Action.QUERY, AUDIT)
        return audit.grep(
            self._directory,
            subject=subject,
            action=action,
            resource=resource,
            denied_only=denied_only,
            since=since,
        )

    def _follow(self, n: int, wait: Callable[[], None]) -> Generator[AuditEntry]:
        entries = audit.tail(self._directory, max(n, 1))
        seen = entries[-1].seq if entries else 0
        yield from entries[-n:] if n else []
        while True:
            wait()
            newest = next(iter(audit.tail(self._directory, 1)), None)
            if newest is not None and newest.seq > seen:
                # Two looks apart at most: everything new is at the end.
                new = audit.tail(self._directory, newest.seq - seen)
                yield from (entry for entry in new if entry.seq > seen)
                seen = new[-1].seq
