"""Large files of repositories on this machine. Knows where git-lfs keeps them and where we do; speaks no protocol.

<repository>/lfs/objects/ab/cd/<sha256>    of a repository of git (in `.git` where it has a work tree)
<models>/.blobs/                           of our own: the repository is `<models>/<name>/repo.git`
"""

from collections.abc import Generator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from hyprstream.core.errors import Corrupt, NotFound, SourceError
from hyprstream.core.files import durable_replace
from hyprstream.core.versions import Pointer
from hyprstream.registry.blobs import BlobStore
from hyprstream.registry.lfs_events import Downloading, Uploading, missing_files
from hyprstream.registry.sources.partial import CHUNK_BYTES, copy_file, require_space

_OUR_REPOSITORY = "repo.git"


class LocalObjects:
    """The large files of one repository."""

    def __init__(self, git_dir: Path) -> None:
        self._git_dir = git_dir
        beside = git_dir.parent.parent / ".blobs"
        is_ours = git_dir.name == _OUR_REPOSITORY and beside.is_dir()
        self._blobs = BlobStore(beside) if is_ours else None

    @classmethod
    def at(cls, path: str) -> Self:
        """The repository git finds at a path.

        Raises:
            SourceError: there is none.
        """
        candidates = [Path(path, ".git"), Path(path), Path(f"{path.rstrip('/')}.git")]
        for candidate in candidates:
            if (candidate / "HEAD").is_file():
                return cls(candidate.resolve())
        raise SourceError(f"{path} is no repository")

    def download(
        self, pointers: Sequence[Pointer], blobs: BlobStore
    ) -> Generator[Downloading, None, None]:
        total = sum(pointer.size for pointer in pointers)
        completed = 0
        problems: list[tuple[Pointer, str]] = []
        for pointer in pointers:
            try:
                for n_bytes in _receive(self._find(pointer.sha256), pointer, blobs):
                    yield Downloading(pointer.sha256, completed + n_bytes, total)
            except (NotFound, Corrupt, SourceError) as error:
                problems.append((pointer, error.message))
            completed += pointer.size
        if problems:
            raise missing_files(str(self._git_dir), problems, len(pointers))

    def upload(
        self, pointers: Sequence[Pointer], blobs: BlobStore
    ) -> Generator[Uploading, None, None]:
        lacking = [pointer for pointer in pointers if not self._has(pointer.sha256)]
        total = sum(pointer.size for pointer in lacking)
        completed = 0
        for pointer in lacking:
            path = blobs.path(pointer.sha256)
            if self._blobs is not None:
                self._blobs.add(path, sha256=pointer.sha256)
            else:
                for n_bytes in self._copy_in(path, pointer.sha256):
                    yield Uploading(pointer.sha256, completed + n_bytes, total)
            completed += pointer.size
            yield Uploading(pointer.sha256, completed, total)

    def _copy_in(self, path: Path, sha256: str) -> Generator[int, None, None]:
        target = self._object(sha256)
        transfers = self._git_dir / "lfs" / "tmp"
        for directory in (transfers, target.parent):
            directory.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=transfers) as directory:
            for n_bytes, _ in copy_file(path, Path(directory), sha256):
                yield n_bytes
            durable_replace(Path(directory, sha256), target)

    def _object(self, sha256: str) -> Path:
        return self._git_dir / "lfs" / "objects" / sha256[:2] / sha256[2:4] / sha256

    def _has(self, sha256: str) -> bool:
        try:
            return self._find(sha256).is_file()
        except (NotFound, Corrupt):
            return False

    def _find(self, sha256: str) -> Path:
        path = self._object(sha256)
        if path.is_file():
            return path
        if self._blobs is None:
            raise NotFound("is not there", kind="file")
        return self._blobs.path(sha256)


def _receive(source: Path, pointer: Pointer, blobs: BlobStore) -> Generator[int, None, None]:
    """Copy a file, going on where an earlier copy ended; yields the bytes that are there."""
    with blobs.partial(pointer.sha256) as part:
        if blobs.has(pointer.sha256):  # somebody else was faster
            return
        require_space(part.directory, pointer.size - part.size)
        with source.open("rb") as file:
            file.seek(part.size)
            while part.size <= pointer.size and (chunk := file.read(CHUNK_BYTES)):
                part.write(chunk)
                yield part.size
        part.publish()
