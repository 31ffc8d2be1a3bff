"""How long work is shown: a bar in a terminal, sparse lines elsewhere, events for scripts. Knows events; starts no work."""

import json
import re
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING

import typer

from hyprstream.cli import console
from hyprstream.cli.layout import as_object, human_size
from hyprstream.core.errors import HyprstreamError

if TYPE_CHECKING:
    from hyprstream.registry.sources.base import Event

LINE_PERCENT = 10
"""How much further a transfer is at each line of plain text."""
JSON_PERCENT = 1
N_DIGEST = 12

_DIGEST = re.compile(r"[0-9a-f]{64}")

Sentence = Callable[["Event"], str | None]
"""What a person is told of an event; None for nothing."""
AsJson = Callable[["Event"], dict[str, object]]


def follow(
    events: Generator["Event"],
    sentence: Sentence,
    as_json: AsJson | None,
    *,
    resumes: str,
) -> None:
    """Do the work the events tell of, to its end.

    Args:
        sentence: what a person is told.
        as_json: how an event is written for a script; None where a person reads.
        resumes: which command continues the work after Ctrl-C.
    """
    try:
        with closing(events):
            if as_json is not None:
                _show_json(events, as_json)
            elif sys.stderr.isatty():
                _show_bar(events, sentence)
            else:
                _show_lines(events, sentence)
    except HyprstreamError as error:
        if as_json is None:
            raise
        _show_json_error(error.message, error.hint)
        raise typer.Exit(console.exit_code(error)) from error
    except KeyboardInterrupt:
        stopped, hint = "stopped; what arrived is kept", f"the same {resumes} continues there"
        if as_json is not None:
            _show_json_error(stopped, hint)
        else:
            console.say(f"{stopped}, {hint}")
        raise typer.Exit(console.INTERRUPTED) from None


def event_as_json(event: "Event") -> dict[str, object]:
    """The event's name and its values."""
    return {"event": type(event).__name__.lower(), **as_object(event)}


def _show_bar(events: Generator["Event"], sentence: Sentence) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task("")
    try:
        for event in events:
            if (moved := _moved(event)) is not None:
                file, completed, total = moved
                bar.start()  # not earlier: a question may have been asked
                bar.update(task, description=file, completed=completed, total=total)
            elif (said := sentence(event)) is not None:
                bar.stop()
                console.say(said)
    finally:
        bar.stop()


def _show_lines(events: Generator["Event"], sentence: Sentence) -> None:
    is_due = _every(LINE_PERCENT)
    for event in events:
        if (moved := _moved(event)) is None:
            if (said := sentence(event)) is not None:
                console.say(said)
        elif is_due(*moved[1:]):
            file, completed, total = moved
            whole = f" of {human_size(total)}" if total else ""
            console.say(f"{file}: {human_size(completed)}{whole}")


def _show_json(events: Generator["Event"], as_json: AsJson) -> None:
    is_due = _every(JSON_PERCENT)
    for event in events:
        if (moved := _moved(event)) is None or is_due(*moved[1:]):
            console.show(json.dumps(as_json(event)))


def _moved(event: "Event") -> tuple[str, int, int | None] | None:
    """File, bytes there and bytes in all, of an event that tells how far bytes have come."""
    from hyprstream.registry.sources.base import Downloading, Uploading

    if isinstance(event, Downloading | Uploading):
        # A large file that travels by its digest has no better name.
        name = event.file[:N_DIGEST] if _DIGEST.fullmatch(event.file) else event.file
        return name, event.completed, event.total
    return None


def _show_json_error(message: str, hint: str | None) -> None:
    console.show(json.dumps({"event": "error", "message": message, "hint": hint}))


def _every(percent: int) -> Callable[[int, int | None], bool]:
    """Whether a transfer came to the next multiple of so many percent."""
    last = -1

    def is_due(completed: int, total: int | None) -> bool:
        nonlocal last
        step = completed * 100 // (percent * total) if total else 0
        if step == last:
            return False
        last = step
        return True

    return is_due
