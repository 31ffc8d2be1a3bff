"""What running one command line leaves behind."""

from collections.abc import Callable
from dataclasses import dataclass

from support.fake_engine import FakeEngine


@dataclass(frozen=True)
class Outcome:
    """Exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]
"""Runs one command line; `stdin` is what is piped into it."""

Serve = Callable[[FakeEngine], FakeEngine]
"""Lets every command of a test be answered by this engine, and returns it."""
