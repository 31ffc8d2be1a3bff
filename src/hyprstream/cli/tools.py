"""What the commands about the policy, tokens and the audit log share. Knows how users are written."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyprstream.services.policy import PolicyTools


@contextmanager
def open_tools() -> "Generator[PolicyTools]":
    """The use cases of this user's data directory."""
    from hyprstream.bootstrap import open_policy
    from hyprstream.settings import load

    with open_policy(load().settings) as tools:
        yield tools


def full_subject(text: str) -> str:
    """A user as the policy names it: a bare name holds a token, so `alice` is `token:alice`."""
    return text if ":" in text or text in ("anonymous", "*") else f"token:{text}"
