"""How what git says of a transfer is told with the events of a pull. Knows both kinds of events; moves no byte."""

from collections.abc import Generator
from typing import TypeVar

from hyprstream.registry.git import GitProgress
from hyprstream.registry.sources.base import Downloading, Event, Uploading

HISTORY = "history"
"""What git's own objects are called where files are counted."""


T = TypeVar("T")


def shown(
    events: Generator[GitProgress | Downloading | Uploading, None, T],
) -> Generator[Event, None, T]:
    """The same events, those of git as bytes that have come; returns what they returned."""
    try:
        while True:
            event = next(events)
            if not isinstance(event, GitProgress):
                yield event
            elif event.n_bytes is not None:
                yield Downloading(HISTORY, event.n_bytes, None)
    except StopIteration as end:
        return end.value
    finally:
        events.close()
