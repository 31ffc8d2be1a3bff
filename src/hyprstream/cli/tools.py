"""What the commands about the policy, tokens and the audit log share. Knows how users are written, and what a terminal may show."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hyprstream.core.errors import Invalid

if TYPE_CHECKING:
    from hyprstream.services.policy import PolicyTools

KINDS = ("local", "token", "peer")
"""What a user's name begins with."""


@contextmanager
def open_tools() -> "Generator[PolicyTools]":
    """The use cases of this user's data directory."""
    from hyprstream.bootstrap import open_policy
    from hyprstream.settings import load

    with open_policy(load().settings) as tools:
        yield tools


def full_subject(text: str) -> str:
    """A user as the policy names it: a bare name holds a token, so `alice` is `token:alice`.

    Raises:
        Invalid: there is no such kind of user, or no name.
    """
    kind, colon, name = text.partition(":")
    if not text or (colon and (kind not in KINDS or not name)):
        raise Invalid(
            f"{text[:80]!r} is not a user",
            param="user",
            hint="alice (who holds a token), local:alice, peer:NAME or anonymous",
        )
    return text if colon or text in ("anonymous", "*") else f"token:{text}"


def printable(text: str) -> str:
    """`text` without what a terminal takes for commands: whoever wrote it may be a stranger."""
    return "".join(
        c if c.isprintable() else " " if c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
