"""Where pip looks for packages on this machine. Knows how pip says it; knows no index by name and asks no network."""

import ast
import netrc
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hyprstream.core.errors import SourceError
from hyprstream.registry.sources.web import (
    WebOptions,
    basic_authorization,
    origin,
    split_credentials,
)

_SECTIONS = ("global", "download", ":env:")
"""Lowest precedence first, as for `pip download` (pip's `ConfigOptionParser`)."""
_LINE = re.compile(r"(?P<section>[^.]+)\.(?P<key>[^=]+)=(?P<value>.*)")
_DEFAULT_INDEX = re.compile(r"--index-url.*?\(default\s+(\S+?)\)", re.DOTALL)
_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class PipConfig:
    """pip's effective configuration. The URLs carry no credentials: those are in `web`, by origin."""

    find_links: tuple[str, ...]
    index_urls: tuple[str, ...]
    web: WebOptions


def read_pip_config() -> PipConfig:
    """Ask pip itself, so that its files, its environment variables and its default all count.

    Raises:
        SourceError: there is no pip, or it does not say where it looks.
    """
    values = parse_config_list(_pip("config", "list"))
    index_urls: list[str] = []
    if values.get("no-index", "").lower() not in ("1", "true", "yes", "on"):
        index_urls = [values.get("index-url") or _default_index()]
        index_urls += values.get("extra-index-url", "").split()
    find_links = [_as_url(place) for place in values.get("find-links", "").split()]
    return PipConfig(
        find_links=tuple(split_credentials(url)[0] for url in find_links),
        index_urls=tuple(split_credentials(url)[0] for url in index_urls),
        web=WebOptions(
            authorizations=_authorizations([*find_links, *index_urls]),
            proxy=_proxy(values.get("proxy")),
            ca_file=values.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE"),
            trusted_hosts=tuple(values.get("trusted-host", "").split()),
        ),
    )


def parse_config_list(text: str) -> dict[str, str]:
    """The options of `pip config list` (lines of `section.option='value'`) that hold for `pip download`."""
    sections: dict[str, dict[str, str]] = {name: {} for name in _SECTIONS}
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found and found["section"] in sections:
            sections[found["section"]][found["key"]] = str(ast.literal_eval(found["value"]))
    return {key: value for name in _SECTIONS for key, value in sections[name].items()}


def _default_index() -> str:
    found = _DEFAULT_INDEX.search(_pip("download", "--help"))
    if found is None:
        raise SourceError("pip names no default index", hint="pip config set global.index-url URL")
    return found[1]


def _pip(*arguments: str) -> str:
    # pip wraps its help to the terminal, which would cut a URL in two.
    result = subprocess.run(
        [sys.executable, "-m", "pip", *arguments],
        env=os.environ | {"COLUMNS": "1000"},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if result.returncode != 0:
        # Its error output may quote an index URL with a password in it.
        raise SourceError(
            f"`pip {' '.join(arguments)}` ended with {result.returncode}",
            hint=f"run `{sys.executable} -m pip {' '.join(arguments)}` to see why",
        )
    return result.stdout


def _as_url(place: str) -> str:
    return place if "://" in place else Path(place).expanduser().absolute().as_uri()


def _proxy(text: str | None) -> str | None:
    return text if not text or "://" in text else f"http://{text}"


def _authorizations(urls: Sequence[str]) -> Mapping[str, str]:
    found = dict[str, str]()
    for url in urls:
        bare, credentials = split_credentials(url)
        found |= credentials or _from_netrc(bare)
    return found


def _from_netrc(url: str) -> dict[str, str]:
    host = urlsplit(url).hostname
    try:
        entry = netrc.netrc(os.environ.get("NETRC")).authenticators(host) if host else None
    except (OSError, netrc.NetrcParseError):
        return {}
    return {origin(url): basic_authorization(entry[0], entry[2] or "")} if entry else {}
