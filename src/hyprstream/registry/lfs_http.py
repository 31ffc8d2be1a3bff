"""A Git LFS server: the batch API and basic transfers. Knows what a server may say and whom to give a token; `web.py` moves bytes.

Sources: `docs/api/batch.md` and `docs/api/basic-transfers.md` of https://github.com/git-lfs/git-lfs.
"""

import json
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event, Thread
from typing import Annotated
from urllib.parse import urlsplit

import httpx
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from hyprstream.core.errors import SourceError
from hyprstream.core.versions import Pointer
from hyprstream.registry.blobs import BlobStore
from hyprstream.registry.lfs_events import Downloading, Uploading, missing_files
from hyprstream.registry.sources.partial import CHUNK_BYTES
from hyprstream.registry.sources.web import (
    RETRY_DELAYS,
    Web,
    WebOptions,
    basic_authorization,
    origin,
    refused_or_busy,
    shown,
)

MAX_BATCH = 100
"""Files asked for at once."""
MAX_ANSWER_BYTES = 4 << 20
"""Of the answer to one batch; signed addresses have a few kilobytes each."""

_MEDIA_TYPE = "application/vnd.git-lfs+json"
_PROGRESS_SECONDS = 0.2
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_OUR_HEADERS = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "range", "if-range"}
)
"""What a server may not decide about our requests."""


class _Action(BaseModel):
    """What to do with one file, and where."""

    model_config = ConfigDict(frozen=True)

    href: Annotated[str, Field(pattern=r"^https?://", max_length=16_384)]
    header: dict[str, str] | None = None
    expires_in: int | None = None
    """Seconds from when it was said."""
    expires_at: AwareDatetime | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Those that may be sent."""
        return {
            name: value
            for name, value in (self.header or {}).items()
            if _HEADER_NAME.fullmatch(name)
            and _HEADER_VALUE.fullmatch(value)
            and name.lower() not in _OUR_HEADERS
        }


class _Problem(BaseModel):
    """Why there is nothing to do with one file."""

    model_config = ConfigDict(frozen=True)

    code: int
    message: str = ""


class _Object(BaseModel):
    """What the server says of one file."""

    model_config = ConfigDict(frozen=True)

    oid: str
    size: int | None = None
    actions: dict[str, _Action] | None = None
    error: _Problem | None = None

    def action(self, name: str) -> _Action | None:
        """What to do; None if nothing."""
        return (self.actions or {}).get(name)


class _Batch(BaseModel):
    """The answer to one batch."""

    model_config = ConfigDict(frozen=True)

    transfer: str = "basic"
    objects: list[_Object]
    hash_algo: str = "sha256"


class _Lease:
    """What a server said of a file, and until when it holds."""

    def __init__(self, found: _Object, operation: str) -> None:
        self.found = found
        self.action = found.action(operation)
        self._until = self._end(self.action)

    @property
    def is_over(self) -> bool:
        """Whether the server must be asked again."""
        return self._until is not None and time.monotonic() >= self._until

    def _end(self, action: _Action | None) -> float | None:
        if action is None:
            return None
        if action.expires_in:
            return time.monotonic() + action.expires_in
        if action.expires_at is not None:
            return time.monotonic() + action.expires_at.timestamp() - time.time()
        return None


class LfsServer:
    """The large files of one repository, behind one URL."""

    def __init__(
        self,
        url: str,
        *,
        remote_url: str,
        token: str | None = None,
        retry_delays: Sequence[float] | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        authorizations = {origin(remote_url): _authorization(token)} if token else {}
        delays = RETRY_DELAYS if retry_delays is None else retry_delays
        self._options = WebOptions(authorizations, retry_delays=delays)

    def download(
        self, pointers: Sequence[Pointer], blobs: BlobStore
    ) -> Generator[Downloading, None, None]:
        total = sum(pointer.size for pointer in pointers)
        completed = 0
        problems: list[tuple[Pointer, str]] = []
        with Web(self._options) as web:
            for pointer, lease in self._leases(web, "download", pointers):
                if problem := _problem(pointer, lease):
                    problems.append((pointer, problem))
                else:
                    for n_bytes in self._fetch(web, pointer, lease, blobs):
                        yield Downloading(pointer.sha256, completed + n_bytes, total)
                completed += pointer.size
        if problems:
            raise missing_files(shown(self._url), problems, len(pointers))

    def upload(
        self, pointers: Sequence[Pointer], blobs: BlobStore
    ) -> Generator[Uploading, None, None]:
        total = sum(pointer.size for pointer in pointers)
        completed = 0
        with Web(self._options) as web:
            for pointer, lease in self._leases(web, "upload", pointers):
                if lease.found.error is not None:
                    raise SourceError(
                        f"{shown(self._url)} does not take {pointer.sha256[:12]}…: {_said(lease.found.error)}"
                    )
                if lease.action is not None:
                    path = blobs.path(pointer.sha256)
                    for n_bytes in self._put(web, pointer, lease.action, path):
                        yield Uploading(pointer.sha256, completed + n_bytes, total)
                if (verify := lease.found.action("verify")) is not None:
                    self._verify(web, pointer, verify)
                completed += pointer.size
                yield Uploading(pointer.sha256, completed, total)

    def _leases(
        self, web: Web, operation: str, pointers: Sequence[Pointer]
    ) -> Generator[tuple[Pointer, _Lease], None, None]:
        """What the server says of each file, asked again where that is no longer valid when its turn comes."""
        waiting = list(pointers)
        while waiting:
            batch = waiting[:MAX_BATCH]
            leases = self._ask(web, operation, batch)
            for pointer in batch:
                lease = leases[pointer.sha256]
                if lease.is_over and pointer is not batch[0]:
                    break
                waiting.remove(pointer)
                yield pointer, lease

    def _ask(self, web: Web, operation: str, pointers: Sequence[Pointer]) -> dict[str, _Lease]:
        """One batch. Every file has its lease."""
        request = {
            "operation": operation,
            "transfers": ["basic"],
            "objects": [{"oid": pointer.sha256, "size": pointer.size} for pointer in pointers],
            "hash_algo": "sha256",
        }
        content = self._post(web, f"{self._url}/objects/batch", request)
        try:
            batch = _Batch.model_validate_json(content)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in problem["loc"])
            # Not `from error`: it holds the answer, and the answer keys of the storage.
            raise SourceError(
                f"{shown(self._url)} gives no answer of a Git LFS server: {where[:200]}: {problem['msg'][:200]}",
                hint="is this the address of a repository with large files?",
            ) from None
        if (batch.transfer, batch.hash_algo) != ("basic", "sha256"):
            raise SourceError(
                f"{shown(self._url)} wants {batch.transfer[:40]!r} transfers of {batch.hash_algo[:40]!r} digests,"
                " only 'basic' ones of 'sha256' can be done"
            )
        leases = {found.oid: _Lease(found, operation) for found in batch.objects}
        for pointer in pointers:
            found = leases.get(pointer.sha256)
            if found is None or found.found.size not in (None, pointer.size):
                size = f"says that it has {found.found.size} bytes" if found else "is silent"
                raise SourceError(
                    f"{shown(self._url)} was asked about {pointer.sha256[:12]}… of {pointer.size} bytes and {size}"
                )
        return leases

    def _fetch(
        self, web: Web, pointer: Pointer, lease: _Lease, blobs: BlobStore
    ) -> Generator[int, None, None]:
        """Download a file, going on where an earlier attempt ended; yields the bytes that are there."""
        with blobs.partial(pointer.sha256) as part:
            if blobs.has(pointer.sha256):  # somebody else was faster
                return
            for may_renew in (True, False):
                assert lease.action is not None, "a file without an action is a problem"
                progress = web.fill(
                    part,
                    lease.action.href,
                    size=pointer.size,
                    private=lease.action.headers,
                    asked=self._url,
                )
                try:
                    with closing(progress):
                        for n_bytes, _ in progress:
                            yield n_bytes
                    return
                except SourceError:
                    if not (may_renew and lease.is_over):
                        raise
                lease = self._ask(web, "download", [pointer])[pointer.sha256]
                if problem := _problem(pointer, lease):
                    raise SourceError(f"{shown(self._url)}: {problem}")

    def _put(
        self, web: Web, pointer: Pointer, action: _Action, path: Path
    ) -> Generator[int, None, None]:
        """Upload a file; yields how much of it was sent."""
        sending = _Sending(path)
        headers = httpx.Headers({"Content-Type": "application/octet-stream"})
        if not _is_chunked(action.header):
            headers["Content-Length"] = str(pointer.size)

        def attempt() -> None:
            with web.send(
                "PUT",
                action.href,
                headers,
                private=action.headers,
                body=sending.from_the_beginning,
                asked=self._url,
            ) as response:
                if not response.is_success:
                    raise refused_or_busy(response, action.href)

        # A daemon: where the network stands still, nobody should have to wait for it to end a process.
        Thread(
            target=sending.run, args=(lambda: web.retried(action.href, attempt),), daemon=True
        ).start()
        try:
            while not sending.is_over.wait(_PROGRESS_SECONDS):
                yield sending.n_sent
        finally:
            sending.is_stopped = True
        if sending.error is not None:
            raise sending.error

    def _verify(self, web: Web, pointer: Pointer, action: _Action) -> None:
        request = {"oid": pointer.sha256, "size": pointer.size}
        self._post(web, action.href, request, action.headers)

    def _post(
        self, web: Web, url: str, request: object, private: Mapping[str, str] | None = None
    ) -> bytes:
        """The answer's body."""
        content = json.dumps(request).encode()
        headers = {"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}

        def attempt() -> bytes:
            with web.send(
                "POST", url, headers, private=private, body=lambda: content, asked=self._url
            ) as response:
                if not response.is_success:
                    raise refused_or_busy(response, url)
                return _read(response, url)

        return web.retried(url, attempt)


class _Stopped(Exception):
    """Nobody waits for the upload any more."""


class _Sending:
    """A file on its way, as another thread sees it."""

    def __init__(self, path: Path) -> None:
        self.n_sent = 0
        self.is_stopped = False
        self.is_over = Event()
        self.error: Exception | None = None
        self._path = path

    def run(self, send: Callable[[], None]) -> None:
        try:
            with self._path.open("rb") as self._file:
                send()
        except Exception as error:
            self.error = error
        finally:
            self.is_over.set()

    def from_the_beginning(self) -> Iterator[bytes]:
        self._file.seek(0)
        self.n_sent = 0
        while chunk := self._file.read(CHUNK_BYTES):
            if self.is_stopped:
                raise _Stopped
            yield chunk
            self.n_sent += len(chunk)


def server_url(remote_url: str) -> str:
    """Where the Git LFS server of a repository is, if nobody says otherwise."""
    parts = urlsplit(remote_url)
    path = parts.path.rstrip("/").removesuffix(".git")
    return parts._replace(path=f"{path}.git/info/lfs").geturl()


def _authorization(token: str) -> str:
    user, colon, password = token.partition(":")
    return basic_authorization(user, password) if colon else f"Bearer {token}"


def _problem(pointer: Pointer, lease: _Lease) -> str | None:
    if lease.found.error is not None:
        return _said(lease.found.error)
    return "the server does not say where it is" if lease.action is None else None


def _said(problem: _Problem) -> str:
    message = "".join(c if c.isprintable() else " " for c in problem.message[:200])
    return f"{problem.code} {message}".rstrip()


def _is_chunked(header: Mapping[str, str] | None) -> bool:
    return httpx.Headers(header or {}).get("transfer-encoding", "").lower() == "chunked"


def _read(response: httpx.Response, url: str) -> bytes:
    content = bytearray()
    for chunk in response.iter_raw():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise SourceError(f"{shown(url)} answers with more than {MAX_ANSWER_BYTES} bytes")
    return bytes(content)
