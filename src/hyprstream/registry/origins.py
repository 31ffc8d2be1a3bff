"""What the text of an origin means: an alias, the hub, a URL, a path. Knows the sources; brings nothing."""

import difflib
import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from hyprstream.core.errors import Invalid, NotFound
from hyprstream.registry.aliases import ALIASES
from hyprstream.registry.sources.base import Source
from hyprstream.registry.sources.file import FileSource
from hyprstream.registry.sources.hub import PREFIX as HUB_PREFIX
from hyprstream.registry.sources.hub import HubSource
from hyprstream.registry.sources.url import UrlSource
from hyprstream.registry.sources.web import shown


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


def _way_to(text: str) -> str:
    if re.fullmatch(r"[\w.-]+/[\w.-]+(:.*)?", text):
        return f"hyprstream pull hf:{text}"
    aliases = [str(ref) for ref in ALIASES]
    if near := difflib.get_close_matches(text, aliases, n=1):
        return f"hyprstream pull {near[0]}"
    return f"{' or '.join(aliases)}, hf:user/repo, an https:// URL, the path of a .gguf file"
