"""What a terminal sees: text, errors, exit codes. Knows streams and terminals; knows no command.

Standard output carries the answer alone, so that it can be piped; everything said about it goes to standard error. Rich
leaves colours away where there is no terminal or `NO_COLOR` is set.
"""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO, cast

from hyprstream.core.errors import (
    BackendError,
    Conflict,
    Corrupt,
    DeadlineExceeded,
    Denied,
    HyprstreamError,
    Invalid,
    NotFound,
    QueueFull,
    RateLimited,
    SourceError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

OK, FAILURE, USAGE, NOT_FOUND, DENIED, BUSY, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

EXIT_CODES: dict[type[HyprstreamError], int] = {
    Invalid: USAGE,
    Unauthenticated: DENIED,
    Denied: DENIED,
    NotFound: NOT_FOUND,
    Conflict: FAILURE,
    TooLarge: USAGE,
    QueueFull: BUSY,
    RateLimited: BUSY,
    Unavailable: BUSY,
    DeadlineExceeded: FAILURE,
    SourceError: FAILURE,
    Corrupt: FAILURE,
    BackendError: FAILURE,
}
"""What the shell is told. A class that is not listed has its nearest ancestor's code."""

EXIT_CODES_HELP = "Exit codes: 0 done, 1 failed, 2 bad usage or input, 3 not found, 4 denied, 5 busy or unavailable, 130 interrupted."

# Everything a terminal could take for a command; tabs and line ends are text.
_CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(0x7F, 0xA0))}
for _harmless in "\t\n":
    del _CONTROL[ord(_harmless)]


def exit_code(error: HyprstreamError) -> int:
    """The code of the class, or of its nearest listed ancestor."""
    return next(EXIT_CODES[cls] for cls in type(error).__mro__ if cls in EXIT_CODES)


def open_streams() -> None:
    """Make the standard streams ones that can be used: there, reading UTF-8, and never failing on a character to write."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    for stream, errors in ((sys.stdin, "strict"), (sys.stdout, "replace"), (sys.stderr, "replace")):
        if isinstance(stream, TextIOWrapper):  # a test's stand-in is not
            encoding = "utf-8" if stream is sys.stdin else None
            cast("TextIOWrapper", stream).reconfigure(encoding=encoding, errors=errors)


def say(text: str) -> None:
    """Write a line about the work to standard error."""
    print(_safe(text, sys.stderr), file=sys.stderr, flush=True)


def show(text: str, *, end: str = "\n") -> None:
    """Write a part of the answer to standard output, at once."""
    print(_safe(text, sys.stdout), end=end, flush=True)


def report(message: str, hint: str | None = None) -> None:
    """Say what went wrong in one line, and the way out in another."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    console.print(Text.assemble(("error: ", "bold red"), _safe(_one_line(message), sys.stderr)))
    if hint:
        console.print(Text.assemble(("try: ", "bold"), _safe(_one_line(hint), sys.stderr)))


@contextmanager
def busy(what: str) -> Generator[None]:
    """Show that something takes a while, where somebody watches."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _safe(text: str, stream: TextIO) -> str:
    # A model, a file name or a server may send escape sequences; a pipe gets the bytes as they are.
    return text.translate(_CONTROL) if stream.isatty() else text
