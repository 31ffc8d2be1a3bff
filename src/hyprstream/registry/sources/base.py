"""The shape every model source has, and the events of a pull. Knows no protocol, no store and no terminal.

A source answers two questions: `offer()` says what it would give before a byte of the model moves, `fetch()` writes
exactly that into a directory. To add one, copy the smallest sibling: `file.py`.
"""

import hashlib
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from hyprstream.core.models import StoredModel
from hyprstream.core.refs import DEFAULT_REF, MAX_NAME_LENGTH, ModelRef
from hyprstream.registry.events import Cloned, Updated

MODEL_FILE = "model.gguf"
"""What a model of one file is called in the store; shards keep their names, as llama.cpp finds them by these."""

SHARD = re.compile(r"-(?P<index>\d{5})-of-(?P<count>\d{5})$")
"""How the stem of one shard of a split GGUF ends (`llama_split_path` in `llama.h`)."""


@dataclass(frozen=True, slots=True)
class Licence:
    """Terms a model comes under."""

    name: str
    url: str | None = None
    must_be_accepted: bool = False


@dataclass(frozen=True, slots=True)
class OfferedFile:
    """One file a source would give."""

    name: str
    """Its name in the store."""
    sha256: str
    size: int | None
    """Bytes; None where only the transfer itself will tell."""
    location: str = field(default="", repr=False)
    """Where its source finds it: a path or a URL. Nobody else's business."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a source would give."""

    source: str
    """Where it comes from, as the user wrote it, without credentials."""
    ref: ModelRef
    """The name it gets unless the user gives another."""
    files: tuple[OfferedFile, ...]
    """One GGUF, or the shards of one in order."""
    n_bytes_needed: int | None = None
    """Most disk space the pull takes at once; None where only the transfer itself will tell."""
    licence: Licence | None = None
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """One digest for the whole model."""
        return combined_digest([file.sha256 for file in self.files])


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several models a reference could mean."""

    name: str
    size: int


class Answers(Protocol):
    """What only the user can answer while a model is pulled."""

    def accepts(self, licence: Licence) -> bool:
        """Whether the user agrees to these terms."""
        ...

    def choose(self, choices: Sequence[Choice]) -> Choice | None:
        """The one the user wants; None if nobody can be asked."""
        ...


@dataclass(frozen=True, slots=True)
class GivenAnswers:
    """The answers of a caller who cannot be asked: no choice, and the terms as decided beforehand."""

    accept_licence: bool = False

    def accepts(self, licence: Licence) -> bool:
        return self.accept_licence

    def choose(self, choices: Sequence[Choice]) -> Choice | None:
        return None


@dataclass(frozen=True, slots=True)
class Resolving:
    """The source is being asked what it has."""

    source: str


@dataclass(frozen=True, slots=True)
class Noted:
    """Something the user should know that changes nothing."""

    message: str


@dataclass(frozen=True, slots=True)
class Downloading:
    """More bytes of the pull are on disk. Counts are those of the whole pull."""

    file: str
    completed: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Verifying:
    """The bytes have the right digest; now the file is read as a GGUF."""

    file: str


@dataclass(frozen=True, slots=True)
class Stored:
    """The last event: the model can be used. `is_new` is false if it was there already."""

    model: StoredModel
    is_new: bool


@dataclass(frozen=True, slots=True)
class Uploading:
    """More bytes are at the remote. Counts are those of everything it lacks; `file` is the SHA-256."""

    file: str
    completed: int
    total: int | None


Event = Resolving | Noted | Downloading | Uploading | Verifying | Stored | Cloned | Updated


class Source(Protocol):
    """One place one model can come from."""

    def offer(self, answers: Answers) -> Offer:
        """What there is. May ask the network; writes nothing.

        Raises:
            SourceError: the source cannot be reached.
            NotFound: it has no such model.
            Invalid: the reference means several models and nobody chose.
        """
        ...

    def fetch(self, offer: Offer, directory: Path) -> Generator[Downloading, None, None]:
        """Write each offered file into `directory`, with its digest as its name, and yield the progress.

        What an earlier, interrupted fetch left there is used. Closing the generator keeps what arrived.

        Raises:
            SourceError: the source cannot be reached, or gave other bytes than it offered.
            TooLarge: the disk has no room for it.
        """
        ...


def combined_digest(digests: Sequence[str]) -> str:
    """The SHA-256 of a model: its file's own, or that of the shards' digests (hexadecimal, in order, joined)."""
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def ref_for_file(name: str) -> ModelRef:
    """The reference a file's name suggests: its stem in lower case, without the shard suffix.

    Runs of characters a name cannot have become one `-`: `My Model.Q4_K_M.gguf` is `my-model.q4_k_m`.
    """
    stem = re.sub(r"\.gguf$", "", PurePosixPath(name).name.lower())
    stem = re.sub(r"[^a-z0-9._-]+", "-", SHARD.sub("", stem))
    stem = re.sub(r"\.{2,}", ".", stem)[:MAX_NAME_LENGTH]
    while stem.endswith(".lock"):
        stem = stem.removesuffix(".lock")
    return ModelRef.parse(f"{stem.strip('._-') or 'model'}:{DEFAULT_REF}")
