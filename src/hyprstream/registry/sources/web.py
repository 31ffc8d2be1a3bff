"""Downloads over HTTP that can be resumed. Knows HTTP and whom to trust with what; knows no index, hub or model."""

import base64
import ipaddress
import re
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx

from hyprstream.core.errors import SourceError
from hyprstream.registry.sources.partial import PartialFile, Progress, require_space

MAX_REDIRECTS = 10
RETRY_DELAYS = (1.0, 2.0, 4.0)
"""Seconds between attempts that brought no new byte; an attempt that brought some starts over."""
MAX_RETRY_AFTER = 60.0
"""Seconds a server may let us wait before it is asked again."""

Body = Callable[[], bytes | Iterator[bytes]]
"""What is sent, from its beginning at every call: a redirect or another attempt needs it again."""
T = TypeVar("T")

_TIMEOUT = httpx.Timeout(60.0, connect=15.0)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d{1,18})-\d{1,18}/(?P<total>\d{1,18}|\*)")
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class WebOptions:
    """Whom to trust, and how to get out."""

    authorizations: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """`Authorization` header by origin (`scheme://host:port`). No other origin ever receives it."""
    proxy: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    trusted_hosts: tuple[str, ...] = ()
    """`host` or `host:port` that may speak plain HTTP or show any certificate."""
    retry_delays: Sequence[float] = RETRY_DELAYS


class Web:
    """GET, by rules: HTTPS (plain HTTP on loopback or for trusted hosts), and credentials for their own origin alone."""

    def __init__(
        self, options: WebOptions | None = None, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._options = options = options or WebOptions()
        self._client = httpx.Client(
            transport=transport,
            timeout=_TIMEOUT,
            proxy=options.proxy,
            verify=_ssl_context(options.ca_file),
            mounts={
                f"all://{host}": httpx.HTTPTransport(verify=False, proxy=options.proxy)
                for host in options.trusted_hosts
            },
            headers={"Accept-Encoding": "identity", "User-Agent": "hyprstream"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Generator[httpx.Response]:
        """The response whose body is still to be read; redirects are followed. Raises as `send`."""
        with self.send("GET", url, headers) as response:
            yield response

    @contextmanager
    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        private: Mapping[str, str] | None = None,
        body: Body | None = None,
        asked: str | None = None,
    ) -> Generator[httpx.Response]:
        """The response whose body is still to be read; redirects are followed with the same method and body.

        Args:
            private: headers for the origin of `url` alone, wherever it redirects to.
            asked: the URL of the server that told us this one, if it was not the user.

        Raises:
            SourceError: a place on the way may not be asked, or there are too many.
            httpx.TransportError: the network failed.
        """
        url = first = split_credentials(url)[0]
        for _ in range(MAX_REDIRECTS + 1):
            self._check(url, asked or first)
            is_first = origin(url) == origin(first)
            request = self._client.build_request(
                method,
                url,
                headers=self._headers(url, headers, private if is_first else None),
                content=body() if body else None,
            )
            with closing(self._client.send(request, stream=True)) as response:
                if response.status_code not in _REDIRECTS or "location" not in response.headers:
                    yield response
                    return
                url = str(response.url.join(response.headers["location"]).copy_with(userinfo=b""))
        raise SourceError(f"{shown(first)} redirects more than {MAX_REDIRECTS} times")

    def download(
        self, url: str, directory: Path, *, sha256: str, size: int | None = None
    ) -> Progress:
        """Fetch `url` to `directory/sha256`, unless that is there already: the name says what it holds. Raises as `fill`."""
        if (directory / sha256).exists():
            return
        with PartialFile(directory, sha256) as part:
            yield from self.fill(part, url, size=size)

    def fill(
        self,
        part: PartialFile,
        url: str,
        *,
        size: int | None = None,
        private: Mapping[str, str] | None = None,
        asked: str | None = None,
    ) -> Progress:
        """Fetch what `part` lacks of `url`, and publish it; `private` and `asked` as in `send`.

        Bytes of an earlier attempt are continued if the server still has the same body. A connection that breaks is
        resumed, until `retry_delays` are used up without a new byte.

        Raises:
            SourceError: unreachable, refused, or the bytes are not those of the part's digest and `size`.
            TooLarge: the disk has no room.
        """
        delays = iter(self._options.retry_delays)
        while part.size == 0 or part.size != size:
            n_before = part.size
            try:
                with self.send(
                    "GET", url, _range_headers(part), private=private, asked=asked
                ) as response:
                    yield from _receive(response, part, url, size)
                break
            except (httpx.TransportError, Retry) as error:
                if part.size > n_before:
                    delays = iter(self._options.retry_delays)
                if (delay := next(delays, None)) is None:
                    raise _gave_up(url, error, part) from error
                time.sleep(max(delay, _wanted_delay(error)))
        part.publish()

    def retried(self, url: str, attempt: Callable[[], T]) -> T:
        """What `attempt` returns, as soon as it raises neither `httpx.TransportError` nor `Retry`.

        Raises:
            SourceError: `retry_delays` are used up.
        """
        delays = iter(self._options.retry_delays)
        while True:
            try:
                return attempt()
            except (httpx.TransportError, Retry) as error:
                if (delay := next(delays, None)) is None:
                    raise SourceError(
                        f"{shown(url)}: {error or type(error).__name__}",
                        hint="check the network and try again",
                    ) from error
                time.sleep(max(delay, _wanted_delay(error)))

    def _check(self, url: str, first: str) -> None:
        parts = urlsplit(url)
        if parts.scheme == "https" or (parts.scheme == "http" and self._may_be_plain(url, first)):
            return
        raise SourceError(
            f"{shown(url)} is not HTTPS",
            hint="plain HTTP is allowed on this machine's loopback addresses only",
        )

    def _may_be_plain(self, url: str, first: str) -> bool:
        # A server far away must not be able to send us to a service of this machine.
        if is_loopback(url):
            return is_loopback(first) or self._is_trusted(url)
        return self._is_trusted(url)

    def _is_trusted(self, url: str) -> bool:
        parts = urlsplit(url)
        return bool({parts.hostname, parts.netloc} & set(self._options.trusted_hosts))

    def _headers(
        self, url: str, headers: Mapping[str, str] | None, private: Mapping[str, str] | None
    ) -> httpx.Headers:
        found = httpx.Headers(dict(headers or {}))
        if (authorization := self._options.authorizations.get(origin(url))) is not None:
            found["Authorization"] = authorization
        found.update(dict(private or {}))
        return found


class Retry(Exception):
    """The server asked for patience, or our bytes were of no use to it. `after` is in seconds."""

    def __init__(self, message: str, *, after: float = 0) -> None:
        super().__init__(message)
        self.after = after


def _receive(response: httpx.Response, part: PartialFile, url: str, size: int | None) -> Progress:
    total = _align(part, response, url)
    if total is None:
        total = size
    if total is None:
        raise SourceError(f"{shown(url)} does not say how many bytes it has")
    if size is not None and total != size:
        raise SourceError(f"{shown(url)} has {total} bytes, expected {size}")
    require_space(part.directory, total - part.size)
    for chunk in response.iter_raw():
        part.write(chunk)
        if part.size > total:
            part.restart()
            raise SourceError(f"{shown(url)} sends more than the {total} bytes it announced")
        yield part.size, total
    if part.size < total:
        raise Retry(f"the body ended at byte {part.size} of {total}")


def origin(url: str) -> str:
    """`scheme://host:port`, with the port spelled out (RFC 6454)."""
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def split_credentials(url: str) -> tuple[str, dict[str, str]]:
    """A URL without its `user:password@`, and the Basic `Authorization` by origin that stands for it (RFC 7617)."""
    parts = urlsplit(url)
    userinfo, at, netloc = parts.netloc.rpartition("@")
    bare = urlunsplit(parts._replace(netloc=netloc))
    if not at:
        return url, {}
    user, _, password = userinfo.partition(":")
    return bare, {origin(bare): basic_authorization(unquote(user), unquote(password))}


def basic_authorization(user: str, password: str) -> str:
    """The value of an `Authorization` header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def shown(url: str) -> str:
    """A URL as it may be printed: without credentials, and without a query, where signatures live."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_loopback(url: str) -> bool:
    """Whether the host is this machine by name or address."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _ssl_context(ca_file: str | None) -> ssl.SSLContext | bool:
    return ssl.create_default_context(cafile=ca_file) if ca_file else True


def _range_headers(part: PartialFile) -> dict[str, str]:
    if part.size == 0:
        return {}
    headers = {"Range": f"bytes={part.size}-"}
    if (etag := part.etag) is not None:
        headers["If-Range"] = etag
    return headers


def _align(part: PartialFile, response: httpx.Response, url: str) -> int | None:
    """Make `part` end where the body begins; returns the whole file's size if the server says it."""
    status = response.status_code
    start, total = _content_range(response)
    if status == HTTPStatus.PARTIAL_CONTENT and start == part.size:
        return total
    if status == HTTPStatus.OK:
        part.restart(response.headers.get("etag"))
        return _number(response.headers.get("content-length", ""))
    if status in (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
        part.restart()
        raise Retry("the server cannot continue where the last attempt ended")
    raise refused_or_busy(response, url)


def refused(response: httpx.Response, url: str) -> SourceError:
    """What an answer means that has not what was asked for."""
    status = response.status_code
    hint = "check the credentials" if status in (401, 403) else None
    return SourceError(
        f"{shown(url)} answers {status} {response.reason_phrase}".rstrip(), hint=hint
    )


def refused_or_busy(response: httpx.Response, url: str) -> SourceError | Retry:
    """As `refused`; `Retry` if the server may answer otherwise soon."""
    if response.status_code not in _RETRIED:
        return refused(response, url)
    after = _retry_after(response)
    if after > MAX_RETRY_AFTER:
        return SourceError(
            f"{shown(url)} answers {response.status_code}", hint=f"try again in {after:.0f} s"
        )
    return Retry(f"the server answers {response.status_code}", after=after)


def _content_range(response: httpx.Response) -> tuple[int | None, int | None]:
    """First byte and size of the whole, of `Content-Range: bytes 5-9/10` (RFC 9110 §14.4)."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    return (int(found["first"]), _number(found["total"])) if found else (None, None)


def _retry_after(response: httpx.Response) -> float:
    """Seconds, of `Retry-After: 120` or `Retry-After: Fri, 31 Dec 1999 23:59:59 GMT` (RFC 9110 §10.2.3); else 0."""
    text = response.headers.get("retry-after", "")
    if (seconds := _number(text[:10])) is not None:
        return float(seconds)
    try:
        until = parsedate_to_datetime(text)
        return max(0.0, (until.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds())
    except ValueError:
        return 0.0


def _wanted_delay(error: Exception) -> float:
    return error.after if isinstance(error, Retry) else 0.0


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _gave_up(url: str, error: Exception, part: PartialFile) -> SourceError:
    kept = (
        f"; {part.size / 1e6:,.1f} MB are kept, the next pull continues there" if part.size else ""
    )
    return SourceError(
        f"{shown(url)}: {error or type(error).__name__}",
        hint=f"check the network and pull again{kept}",
    )
