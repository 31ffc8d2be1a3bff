"""Git LFS without its program: pointers read and written, large files fetched and given. Knows no model and no branch.

Formats are `docs/spec.md` (pointers), `docs/api/server-discovery.md` and `docs/api/batch.md` of
https://github.com/git-lfs/git-lfs. `lfs_http` speaks to servers, `lfs_local` looks into directories of this machine.
"""

import re
from collections.abc import Generator, Sequence
from typing import Protocol
from urllib.parse import unquote, urlsplit

from hyprstream.core.errors import SourceError
from hyprstream.core.versions import Pointer
from hyprstream.registry.blobs import BlobStore
from hyprstream.registry.lfs_events import Downloading, Uploading
from hyprstream.registry.lfs_local import LocalObjects
from hyprstream.registry.remote_urls import check_remote_url, redacted, transport_of

__all__ = ["Downloading", "LfsRemote", "Uploading", "encode_pointer", "parse_pointer"]

MAX_POINTER_BYTES = 1024

_VERSION = b"version https://git-lfs.github.com/spec/v1\n"
_LINE = re.compile(r"(?P<key>[a-z0-9.-]+) (?P<value>[^\r\n]+)\n")
_OID = re.compile(r"sha256:(?P<sha256>[0-9a-f]{64})")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_MAX_SIZE = (1 << 63) - 1


def parse_pointer(content: bytes) -> Pointer | None:
    """What a pointer stands for; None of anything that is not one to the letter, and so is a file itself."""
    if not content.startswith(_VERSION) or len(content) > MAX_POINTER_BYTES:
        return None
    try:
        lines = content[len(_VERSION) :].decode().split("\n")
    except UnicodeDecodeError:
        return None
    found = [_LINE.fullmatch(f"{line}\n") for line in lines[:-1]]
    values = {line["key"]: line["value"] for line in found if line is not None}
    # One for each line in alphabetical order; and extensions (`ext-0-name`) store other bytes than the file has.
    is_sound = lines[-1] == "" and len(values) == len(found) and list(values) == sorted(values)
    if not is_sound or any(key.startswith("ext-") for key in values):
        return None
    oid, size = _OID.fullmatch(values.get("oid", "")), _SIZE.fullmatch(values.get("size", ""))
    if oid is None or size is None or int(size[0]) > _MAX_SIZE:
        return None
    return Pointer(oid["sha256"], int(size[0]))


def encode_pointer(pointer: Pointer) -> bytes:
    """The pointer file that stands for a content."""
    assert _OID.fullmatch(f"sha256:{pointer.sha256}"), "a pointer has a whole sha256"
    assert 0 <= pointer.size <= _MAX_SIZE, "a size has 63 bits"
    return _VERSION + f"oid sha256:{pointer.sha256}\nsize {pointer.size}\n".encode()


class Objects(Protocol):
    """A place large files come from and go to. The pointers it is given differ and, to download, are missing here."""

    def download(
        self, pointers: Sequence[Pointer], blobs: BlobStore
    ) -> Generator[Downloading, None, None]: ...

    def upload(
        self, pointers: Sequence[Pointer], blobs: BlobStore
    ) -> Generator[Uploading, None, None]: ...


class LfsRemote:
    """The large files of one remote repository. Nobody is asked before the first file is wanted."""

    def __init__(
        self,
        remote_url: str,
        *,
        token: str | None = None,
        lfs_url: str | None = None,
        retry_delays: Sequence[float] | None = None,
    ) -> None:
        """Make one.

        Args:
            token: sent to the origin of `remote_url` alone; `user:password` as Basic, anything else as Bearer.
            lfs_url: where its Git LFS server is, unless that follows from `remote_url`.
            retry_delays: seconds between attempts that brought nothing, unless those are as for any download.

        Raises:
            Invalid: an address is none a repository may be fetched from.
        """
        self._remote_url = check_remote_url(remote_url)
        self._lfs_url = check_remote_url(lfs_url) if lfs_url else None
        self._token = token
        self._retry_delays = retry_delays

    def download(
        self, pointers: Sequence[Pointer], blobs: BlobStore
    ) -> Generator[Downloading, None, None]:
        """Bring what is missing into `blobs`; counts are those of everything that is missing.

        What an earlier, interrupted download left is used. Closing the generator keeps what arrived.

        Raises:
            SourceError: the remote cannot be reached, lacks a file, or gave other bytes. Whatever else it has is fetched first.
            TooLarge: the disk has no room.
        """
        missing = [pointer for pointer in dict.fromkeys(pointers) if not blobs.has(pointer.sha256)]
        if missing:
            yield from self._objects().download(missing, blobs)

    def upload(
        self, pointers: Sequence[Pointer], blobs: BlobStore
    ) -> Generator[Uploading, None, None]:
        """Give the remote what it lacks.

        Raises:
            SourceError: the remote cannot be reached, or refuses a file.
            NotFound, Corrupt: it lacks a file that `blobs` lacks too.
        """
        if pointers:
            yield from self._objects().upload(list(dict.fromkeys(pointers)), blobs)

    def _objects(self) -> Objects:
        url = self._lfs_url or self._remote_url
        transport = transport_of(url)
        if transport == "file":
            return LocalObjects.at(unquote(urlsplit(url).path))
        if transport == "ssh":
            raise SourceError(
                f"{redacted(url)}: large files cannot be fetched or given over ssh",
                hint="use the https address of the repository, or name that of its Git LFS server (lfs_url)",
            )
        # What speaks HTTP takes longer to import than a model to be listed.
        from hyprstream.registry.lfs_http import LfsServer, server_url

        return LfsServer(
            self._lfs_url or server_url(self._remote_url),
            remote_url=self._remote_url,
            token=self._token,
            retry_delays=self._retry_delays,
        )
