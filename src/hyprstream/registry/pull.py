"""One pull from reference to stored model. Knows the order of things; each source knows how its bytes travel."""

import shutil
from collections.abc import Generator, Sequence
from pathlib import Path

from hyprstream.core.errors import Conflict, Invalid, InvalidModelFile, SourceError
from hyprstream.core.refs import ModelRef
from hyprstream.core.versions import Pointer
from hyprstream.registry.origins import open_source, parse_sha256
from hyprstream.registry.registry import NewFile, Registry
from hyprstream.registry.sources.base import (
    Answers,
    Event,
    GivenAnswers,
    Licence,
    Noted,
    Offer,
    Resolving,
    Source,
    Stored,
    Verifying,
)
from hyprstream.registry.sources.file import FileSource, shards_of
from hyprstream.registry.sources.partial import require_space
from hyprstream.registry.sources.web import shown

NO_ANSWERS = GivenAnswers()


def pull(
    registry: Registry,
    text: str,
    *,
    name: ModelRef | None = None,
    sha256: str | None = None,
    answers: Answers = NO_ANSWERS,
    in_place: bool = False,
) -> Generator[Event, None, None]:
    """Bring a model into the registry, under `name` or the one its source suggests. The last event is Stored.

    Closing the generator ends the pull and keeps what arrived; the same pull later continues there.

    Args:
        in_place: leave the file where it is, and refer to it.

    Raises:
        Invalid: the reference means nothing, or several things; or its licence is not accepted.
        NotFound: there is no such model.
        SourceError: the source cannot be reached, or has other bytes than promised.
        InvalidModelFile: the file is no sound GGUF.
        Conflict: another model has this name, or another process is pulling it.
        TooLarge: the disk has no room.
    """
    digest = None if sha256 is None else parse_sha256(sha256)
    source = open_source(text, digest)
    if in_place and not isinstance(source, FileSource):
        raise Invalid(
            f"{shown(text)} is not a file that could be left where it is", param="in_place"
        )
    yield Resolving(shown(text) if "://" in text else text)
    offer = source.offer(answers)
    if digest not in (None, offer.sha256):
        raise SourceError(f"{offer.source} has the sha256 {offer.sha256}, not {digest}")
    for note in offer.notes:
        yield Noted(note)
    ref = name or offer.ref
    with registry.staging(ref) as directory:
        if (stored := registry.find(ref)) is not None:
            if stored.sha256 != offer.sha256:
                raise Conflict(
                    f"{ref} is stored already and is another model ({stored.source})",
                    hint=f"--name NAME, or hyprstream rm {ref} first",
                )
            yield Stored(stored, is_new=False)
            return
        _require_acceptance(offer.licence, answers)
        if in_place and isinstance(source, FileSource):
            files = _files_in_place(source, offer)
        else:
            yield from _fetch(registry, source, offer, directory)
            files = [
                NewFile(directory / file.sha256, file.name, file.sha256) for file in offer.files
            ]
        yield Verifying(str(ref))
        try:
            model = registry.add(
                ref, files, source=offer.source, licence=offer.licence, in_place=in_place
            )
        except InvalidModelFile:
            # The bytes are what was asked for and no good: to keep them would only repeat this.
            shutil.rmtree(directory)
            raise
    yield Stored(model, is_new=True)


def _fetch(
    registry: Registry, source: Source, offer: Offer, directory: Path
) -> Generator[Event, None, None]:
    """Bring every offered file into the directory; those that another model has are not fetched again."""
    for file in offer.files:
        if (size := registry.blobs.size(file.sha256)) is not None:
            registry.blobs.link(Pointer(file.sha256, size), directory / file.sha256)
    if all((directory / file.sha256).exists() for file in offer.files):
        return
    if offer.n_bytes_needed is not None:
        require_space(directory, offer.n_bytes_needed - _n_bytes_in(directory))
    yield from source.fetch(offer, directory)


def _files_in_place(source: FileSource, offer: Offer) -> Sequence[NewFile]:
    paths = shards_of(source.path.absolute())
    return [
        NewFile(path, file.name, file.sha256) for path, file in zip(paths, offer.files, strict=True)
    ]


def _require_acceptance(licence: Licence | None, answers: Answers) -> None:
    if licence is None or not licence.must_be_accepted or answers.accepts(licence):
        return
    raise Invalid(
        f"the {licence.name} must be accepted first",
        param="accept_licence",
        hint=f"read {licence.url}, then pull with --accept-licence",
    )


def _n_bytes_in(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())
