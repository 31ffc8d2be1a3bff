"""One pull from reference to stored model. Knows the order of things; each source knows how its bytes travel."""

import difflib
import re
import shutil
from collections.abc import Generator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from hyprstream.core.errors import Conflict, Invalid, InvalidModelFile, NotFound, SourceError
from hyprstream.core.refs import ModelRef
from hyprstream.registry.aliases import ALIASES
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
from hyprstream.registry.sources.file import FileSource
from hyprstream.registry.sources.hub import PREFIX as HUB_PREFIX
from hyprstream.registry.sources.hub import HubSource
from hyprstream.registry.sources.partial import require_space
from hyprstream.registry.sources.url import UrlSource
from hyprstream.registry.sources.web import shown
from hyprstream.registry.store import ModelStore, NewFile

NO_ANSWERS = GivenAnswers()


def pull(
    store: ModelStore,
    text: str,
    *,
    name: ModelRef | None = None,
    sha256: str | None = None,
    answers: Answers = NO_ANSWERS,
) -> Generator[Event, None, None]:
    """Bring a model into the store, under `name` or the one its source suggests. The last event is Stored.

    Closing the generator ends the pull and keeps what arrived; the same pull later continues there.

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
    yield Resolving(shown(text) if "://" in text else text)
    offer = source.offer(answers)
    if digest not in (None, offer.sha256):
        raise SourceError(f"{offer.source} has the sha256 {offer.sha256}, not {digest}")
    for note in offer.notes:
        yield Noted(note)
    yield from _fetch(store, source, offer, name or offer.ref, answers)


def open_source(text: str, sha256: str | None = None) -> Source:
    """The source a reference means: an alias, `hf:user/repo[:file]`, a URL, a path.

    Raises:
        Invalid: a URL without a digest to hold its bytes against, or no address at all.
        NotFound: neither alias nor path.
    """
    if text.startswith(HUB_PREFIX):
        return HubSource.parse(text)
    if text.startswith("file://"):
        return FileSource(Path(url2pathname(urlsplit(text).path)))
    if text.startswith(("https://", "http://")):
        if sha256 is None:
            raise Invalid(
                f"{shown(text)} needs a digest to be checked against",
                param="sha256",
                hint=f"hyprstream pull {shown(text)} --sha256 HEX",
            )
        return UrlSource(text, sha256)
    for ref, source in ALIASES.items():
        if text in (str(ref), f"{ref.name}:{ref.ref}"):
            return source
    path = Path(text).expanduser()
    if path.is_file() or text.endswith(".gguf"):
        return FileSource(path)
    raise NotFound(f"there is no model or file {text[:120]!r}", hint=_way_to(text))


def parse_sha256(text: str) -> str:
    """64 hexadecimal digits, with or without `sha256:` before them, in lower case.

    Raises:
        Invalid: it is something else.
    """
    digits = text.strip().lower().removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise Invalid(
            f"a sha256 has 64 hexadecimal digits, this has {len(digits)} characters", param="sha256"
        )
    return digits


def _fetch(
    store: ModelStore, source: Source, offer: Offer, ref: ModelRef, answers: Answers
) -> Generator[Event, None, None]:
    with store.staging(ref) as directory:
        if (stored := store.find(ref)) is not None:
            if stored.sha256 != offer.sha256:
                raise Conflict(
                    f"{ref} is stored already and is another model ({stored.source})",
                    hint=f"--name NAME, or hyprstream rm {ref} first",
                )
            yield Stored(stored, is_new=False)
            return
        _require_acceptance(offer.licence, answers)
        if offer.n_bytes_needed is not None:
            require_space(directory, offer.n_bytes_needed - _n_bytes_in(directory))
        yield from source.fetch(offer, directory)
        yield Verifying(str(ref))
        files = [NewFile(directory / file.sha256, file.name, file.sha256) for file in offer.files]
        try:
            model = store.add(ref, files, source=offer.source, licence=offer.licence)
        except InvalidModelFile as error:
            # The bytes are what was asked for and no good: to keep them would only repeat this.
            shutil.rmtree(directory)
            message = error.message
            for file in offer.files:
                message = message.replace(file.sha256, file.name)
            raise InvalidModelFile(message, hint=error.hint) from None
    yield Stored(model, is_new=True)


def _require_acceptance(licence: Licence | None, answers: Answers) -> None:
    if licence is None or not licence.must_be_accepted or answers.accepts(licence):
        return
    raise Invalid(
        f"the {licence.name} must be accepted first",
        param="accept_licence",
        hint=f"read {licence.url}, then pull with --accept-licence",
    )


def _way_to(text: str) -> str:
    if re.fullmatch(r"[\w.-]+/[\w.-]+(:.*)?", text):
        return f"hyprstream pull hf:{text}"
    aliases = [str(ref) for ref in ALIASES]
    if near := difflib.get_close_matches(text, aliases, n=1):
        return f"hyprstream pull {near[0]}"
    return f"{' or '.join(aliases)}, hf:user/repo, an https:// URL, the path of a .gguf file"


def _n_bytes_in(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())
