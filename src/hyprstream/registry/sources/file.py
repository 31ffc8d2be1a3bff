"""A GGUF on this machine. Knows paths and `file://` URLs; the file is copied, never moved or linked."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from hyprstream.core.errors import NotFound
from hyprstream.registry.sources.base import (
    MODEL_FILE,
    SHARD,
    Answers,
    Downloading,
    Offer,
    OfferedFile,
    ref_for_file,
)
from hyprstream.registry.sources.partial import copy_file, sha256_of


@dataclass(frozen=True, slots=True)
class FileSource:
    """One GGUF; of a split one, any shard names them all."""

    path: Path

    def offer(self, answers: Answers) -> Offer:
        paths = shards_of(self.path)
        for path in paths:
            if not path.is_file():
                raise NotFound(f"no file {path}", kind="file")
        names = [MODEL_FILE] if len(paths) == 1 else [path.name for path in paths]
        files = tuple(
            OfferedFile(name, sha256_of(path), path.stat().st_size)
            for name, path in zip(names, paths, strict=True)
        )
        return Offer(
            source=str(self.path),
            ref=ref_for_file(self.path.name),
            files=files,
            n_bytes_needed=sum(path.stat().st_size for path in paths),
        )

    def fetch(self, offer: Offer, directory: Path) -> Generator[Downloading, None, None]:
        completed, total = 0, offer.n_bytes_needed
        for path, file in zip(shards_of(self.path), offer.files, strict=True):
            for n_bytes, _ in copy_file(path, directory, file.sha256):
                yield Downloading(path.name, completed + n_bytes, total)
            completed += path.stat().st_size


def shards_of(path: Path) -> list[Path]:
    """Every file of the model `path` belongs to, in order: itself alone, unless its name says it is a shard."""
    found = SHARD.search(path.stem)
    if found is None:
        return [path]
    stem, count = path.stem[: found.start()], int(found["count"])
    return [
        path.with_name(f"{stem}-{i:05d}-of-{count:05d}{path.suffix}") for i in range(1, count + 1)
    ]
