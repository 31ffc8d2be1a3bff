"""Who may read the audit log, and how it is followed."""

from itertools import islice
from pathlib import Path

import pytest

from hyprstream.core.errors import Denied
from hyprstream.core.principal import Action, Decision, Door, Principal, Resource
from hyprstream.policy.audit import JsonAuditLog
from hyprstream.services.audit import AuditService

ME = Principal("local:owner", Door.CLI)
MODEL = Resource("model", "smollm2:main")


class OnlyTheOwner:
    """A policy for one."""

    def require(self, principal: Principal, action: Action, resource: Resource) -> None:
        if principal != ME:
            raise Denied(f"{principal} may not {action} {resource}")

    def allows(self, principal: Principal, action: Action, resource: Resource) -> bool:
        return principal == ME


@pytest.fixture
def service(tmp_path: Path) -> AuditService:
    return AuditService(OnlyTheOwner(), tmp_path)


def write(directory: Path, *users: str, is_allowed: bool = True) -> None:
    """Write one decision about each of these users, and wait for the disk."""
    log = JsonAuditLog(directory)
    for user in users:
        decision = Decision(is_allowed, "no rule allows it")
        log.record(Principal(f"token:{user}"), Action.INFER, MODEL, decision)
    log.close()


def test_nobody_else_reads_it(service: AuditService) -> None:
    stranger = Principal("token:alice")
    for call in (
        lambda: service.verify(stranger),
        lambda: service.tail(stranger, 1),
        lambda: service.follow(stranger, 1, lambda: None),
        lambda: service.grep(stranger),
    ):
        with pytest.raises(Denied):
            call()


def test_following_yields_the_last_entries_and_then_each_new_one_once(
    service: AuditService, tmp_path: Path
) -> None:
    write(tmp_path, "one", "two", "three")
    arrivals = iter([[], ["four", "five"], [], ["six"]])

    def wait() -> None:
        write(tmp_path, *next(arrivals))

    followed = service.follow(ME, 2, wait)
    seen = [entry.subject for entry in islice(followed, 5)]
    assert seen == ["token:two", "token:three", "token:four", "token:five", "token:six"]
    followed.close()


def test_following_a_log_that_is_not_there_yet_waits_for_it(
    service: AuditService, tmp_path: Path
) -> None:
    followed = service.follow(ME, 0, lambda: write(tmp_path, "first"))
    assert next(followed).subject == "token:first"
    followed.close()


def test_only_what_fits_is_found(service: AuditService, tmp_path: Path) -> None:
    write(tmp_path, "alice", "bob")
    write(tmp_path, "alice", is_allowed=False)
    found = list(service.grep(ME, subject="token:alice", denied_only=True))
    assert [(entry.subject, entry.allowed) for entry in found] == [("token:alice", False)]
