"""How answers are laid out: sizes, ages, tables, JSON. Knows values and text; knows no command and no terminal."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from hyprstream.core.refs import ModelRef

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

N_SHORT = 8
"""Hexadecimal digits a person is shown of a commit, a digest or a UUID."""


def human_size(n_bytes: int) -> str:
    """`98.4 MB`."""
    return f"{scaled(n_bytes)}B"


def scaled(n: int) -> str:
    """Three digits and a decimal prefix: `98.4 M`, `135 M`, `1.24 G`."""
    value, prefixes = float(n), ["", "k", "M", "G", "T"]
    while value >= 999.5 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop(0)
    return f"{value:.3g} {prefixes[0]}"


def short(digits: str) -> str:
    """The beginning of a commit, digest or UUID."""
    return digits[:N_SHORT]


def moment(seconds: int) -> str:
    """`2026-02-04T10:00:00+00:00`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def counted(n: int, noun: str) -> str:
    """`1 branch`, `3 files`."""
    plural = f"{noun}es" if noun.endswith(("ch", "sh", "s")) else f"{noun}s"
    return f"{n:,} {noun if n == 1 else plural}"


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows as lines with their columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def jsonable(value: object) -> object:
    """A value of ours as one that JSON can hold: references as text, dataclasses as objects."""
    match value:
        case ModelRef():
            return value.full
        case Mapping():
            items = cast("Mapping[object, object]", value).items()
            return {str(key): jsonable(item) for key, item in items}
        case list() | tuple():
            return [jsonable(item) for item in cast("Sequence[object]", value)]
        case None | bool() | int() | float() | str():
            return value
        case _ if is_dataclass(value):
            return as_object(cast("DataclassInstance", value))
        case _:
            return str(value)


def as_object(value: "DataclassInstance") -> dict[str, object]:
    """A dataclass as an object of JSON."""
    return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
