"""A GGUF at an address, pinned by the digest the user gives. Knows URLs; whom to trust is `web.py`'s business."""

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hyprstream.registry.sources.base import (
    MODEL_FILE,
    Answers,
    Downloading,
    Offer,
    OfferedFile,
    ref_for_file,
)
from hyprstream.registry.sources.web import Web, WebOptions, shown, split_credentials


@dataclass(frozen=True, slots=True)
class UrlSource:
    """One file behind one URL, which may carry `user:password@`."""

    url: str = field(repr=False)
    sha256: str

    def offer(self, answers: Answers) -> Offer:
        return Offer(
            source=shown(self.url),
            ref=ref_for_file(unquote(urlsplit(self.url).path)),
            files=(OfferedFile(MODEL_FILE, self.sha256, None),),
        )

    def fetch(self, offer: Offer, directory: Path) -> Generator[Downloading, None, None]:
        url, authorizations = split_credentials(self.url)
        with Web(WebOptions(authorizations)) as web:
            for n_bytes, total in web.download(url, directory, sha256=self.sha256):
                yield Downloading(offer.files[0].name, n_bytes, total)
