"""How a clone and an update end. Values only; what happens on the way is told by the events of `sources.base`."""

from dataclasses import dataclass

from hyprstream.core.refs import ModelRef
from hyprstream.registry.entries import Entry


@dataclass(frozen=True, slots=True)
class Cloned:
    """The last event of a clone: the model is registered. `is_new` is false if it was before."""

    entry: Entry
    is_new: bool


@dataclass(frozen=True, slots=True)
class Updated:
    """The last event of an update: the branch is where it should be."""

    ref: ModelRef
    old: str
    """Commit id; empty where the branch is new."""
    new: str
