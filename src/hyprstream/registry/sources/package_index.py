"""Finds one file of one package. Knows the simple repository API and directories of files; knows nothing of models.

The API is PEP 691 (JSON) with PEP 503 (HTML) for servers that have only that.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.request import url2pathname

import httpx
from pydantic import BaseModel, ValidationError

from hyprstream.core.errors import SourceError
from hyprstream.registry.sources.pip_config import PipConfig
from hyprstream.registry.sources.web import Web, refused, shown

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
_ACCEPT = f"{JSON_TYPE}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_MAX_PAGE_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Link:
    """One file an index offers."""

    filename: str
    url: str
    sha256: str | None
    """What the index says it is; the caller's pin decides."""


def find_file(config: PipConfig, web: Web, package: str, filename: str, sha256: str) -> Link:
    """The first place of pip's that has this file, with this digest or without one.

    Raises:
        SourceError: nobody has it; the message says who was asked and what came back.
    """
    refusals = list[str]()
    for url in _pages(config, package):
        try:
            links = [link for link in read_page(web, url) if link.filename == filename]
        except (SourceError, httpx.HTTPError) as error:
            refusals.append(f"{shown(url)}: {error}")
            continue
        for link in links:
            if link.sha256 in (None, sha256):
                return link
        refusals.append(
            f"{shown(url)}: {'has other bytes under this name' if links else 'has no such file'}"
        )
    raise SourceError(
        f"no index of pip's has {filename} with the pinned digest ({'; '.join(refusals) or 'none is configured'})",
        hint="see `pip config list`: index-url, extra-index-url, find-links",
    )


def read_page(web: Web, url: str) -> list[Link]:
    """The files a project page, a directory or an HTML file lists.

    Raises:
        SourceError: refused, too long, or not of the format it claims.
        httpx.TransportError: the network failed.
    """
    if urlsplit(url).scheme == "file":
        return _read_local(Path(url2pathname(urlsplit(url).path)))
    with web.get(url, {"Accept": _ACCEPT}) as response:
        if response.status_code == HTTPStatus.NOT_FOUND:
            return []
        if response.status_code != HTTPStatus.OK:
            raise refused(response, url)
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > _MAX_PAGE_BYTES:
                raise SourceError(f"the page is longer than {_MAX_PAGE_BYTES >> 20} MiB")
        content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        return parse_page(bytes(body), content_type, str(response.url))


def parse_page(body: bytes, content_type: str, url: str) -> list[Link]:
    """The links of a project page; relative ones are resolved against `url`.

    Raises:
        SourceError: the body is not of the format.
    """
    if content_type in (JSON_TYPE, "application/json"):
        try:
            files = _Page.model_validate_json(body).files
        except ValidationError as error:
            raise SourceError(f"not a simple API page: {error.errors()[0]['msg']}") from error
        return [Link(f.filename, urljoin(url, f.url), f.hashes.get("sha256")) for f in files]
    parser = _Anchors()
    parser.feed(body.decode(errors="replace"))
    return [_link(urljoin(urljoin(url, parser.base), href)) for href in parser.hrefs]


class _File(BaseModel):
    filename: str
    url: str
    hashes: dict[str, str] = {}


class _Page(BaseModel):
    files: list[_File]


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.hrefs = list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if href and tag == "a":
            self.hrefs.append(href)
        elif href and tag == "base" and not self.base:
            self.base = href


def _pages(config: PipConfig, package: str) -> Iterator[str]:
    yield from config.find_links
    normalized = re.sub(r"[-_.]+", "-", package).lower()
    for index in config.index_urls:
        yield f"{index.rstrip('/')}/{normalized}/"


def _read_local(path: Path) -> list[Link]:
    page = path / "index.html" if path.is_dir() else path
    if page.suffix == ".html" and page.is_file():
        return parse_page(page.read_bytes(), "text/html", page.absolute().as_uri())
    return [_link(file.as_uri()) for file in path.absolute().iterdir()] if path.is_dir() else []


def _link(href: str) -> Link:
    url, fragment = urldefrag(href)
    name, _, digest = fragment.partition("=")
    filename = unquote(urlsplit(url).path.rpartition("/")[2])
    return Link(filename, url, digest.lower() if name == "sha256" else None)
