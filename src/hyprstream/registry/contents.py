"""What one version of a model holds, and what of it can be served. Knows trees and headers of files; knows no names of models.

A commit never changes, so what was found out about one is written down, and next time neither git nor a model is opened.
"""

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from hyprstream.core.errors import HyprstreamError, Invalid, InvalidModelFile
from hyprstream.core.files import write_durably
from hyprstream.core.models import ModelFacts
from hyprstream.core.versions import Pointer, TreeFile
from hyprstream.registry.blobs import BlobStore
from hyprstream.registry.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from hyprstream.registry.repository import ModelRepository
from hyprstream.registry.sources.base import combined_digest
from hyprstream.registry.weights import choose_weights, describe_safetensors, read_facts

_log = logging.getLogger(__name__)


class LargeFile(BaseModel):
    """A file of a version whose content is in the blob store."""

    model_config = ConfigDict(frozen=True)

    path: str
    sha256: str
    size: int
    """Bytes."""
    oid: str | None = None
    """Git's id of the content, where git itself holds it and the blob is a copy."""

    @property
    def pointer(self) -> Pointer:
        """Digest and size."""
        return Pointer(self.sha256, self.size)


class Contents(BaseModel):
    """What a commit holds."""

    model_config = ConfigDict(frozen=True)

    commit: str
    created: int
    """Seconds since the epoch when it was committed."""
    size_bytes: int
    """Of all files, as they are when read."""
    large: tuple[LargeFile, ...]
    weights: tuple[LargeFile, ...] = ()
    """What is served: one GGUF, or its shards in order."""
    facts: ModelFacts | None = None
    problem: str | None = None
    """Why nothing can be served, where `facts` is None."""
    is_unsound: bool = False
    """Whether the problem is a GGUF that llama.cpp must not be given."""
    source: str | None = None
    """Where the manifest says that it comes from."""

    @property
    def sha256(self) -> str:
        """One digest for the weights."""
        return combined_digest([file.sha256 for file in self.weights])


class Library:
    """Contents of commits, found out once each."""

    def __init__(self, directory: Path, blobs: BlobStore) -> None:
        self.directory = directory
        self._facts = directory / "facts"
        self._views = directory / "views"
        self._blobs = blobs
        self._known: dict[str, Contents] = {}

    def known(self, commit: str) -> Contents | None:
        """What a commit holds, if that was found out before. Starts no process and opens no model."""
        if (contents := self._known.get(commit)) is None:
            try:
                with (self._facts / f"{commit}.json").open("rb") as file:
                    contents = Contents.model_validate_json(file.read())
            except (FileNotFoundError, ValidationError):
                return None
            self._known[commit] = contents
        return contents

    def read(self, repository: ModelRepository, commit: str) -> Contents:
        """What a commit holds.

        Raises:
            NotFound: its weights are not here.
        """
        contents = self.known(commit)
        if contents is None:
            contents = self._examine(repository, commit)
            self._facts.mkdir(parents=True, exist_ok=True)
            write_durably(
                self._facts / f"{commit}.json", contents.model_dump_json().encode(), mode=0o644
            )
            self._known[commit] = contents
        return contents

    def forget(self, commits: set[str]) -> None:
        """Forget what was found out of all commits but these."""
        for path in self._facts.glob("*.json"):
            if path.stem not in commits:
                path.unlink(missing_ok=True)
        self._known.clear()

    def path(self, repository: ModelRepository, contents: Contents) -> Path:
        """Where the served file is; of a split model the first shard, with its siblings beside it by their names.

        Raises:
            NotFound: a file of the weights is not here.
            Corrupt: a file that is referred to in place has changed.
        """
        paths = [self._content(repository, file) for file in contents.weights]
        if len(paths) == 1:
            return paths[0]
        view = self._views / contents.sha256
        links = [view / PurePosixPath(file.path).name for file in contents.weights]
        for link, path in zip(links, paths, strict=True):
            if not link.exists():
                _link_symbolically(path, link)
        return links[0]

    def served_files(self, path: str) -> tuple[str, ...]:
        """Every file that is read where the one of that `path` is served; of a split model all of its shards."""
        first = Path(path)
        is_split = first.parent.parent == self._views
        return tuple(map(str, sorted(first.parent.iterdir()))) if is_split else (path,)

    def _examine(self, repository: ModelRepository, commit: str) -> Contents:
        files = repository.files(commit)
        manifest = _manifest(repository, commit, files)
        large = tuple(
            LargeFile(path=file.path, sha256=file.pointer.sha256, size=file.pointer.size)
            for file in files.values()
            if file.pointer is not None
        )
        contents = Contents(
            commit=commit,
            created=repository.log(commit, 1)[0].created,
            size_bytes=sum(file.size for file in files.values()),
            large=large,
            source=manifest.lineage.source if manifest else None,
        )
        try:
            chosen = choose_weights(files, manifest)
        except Invalid as error:
            tensors = self._describe_safetensors(contents)
            return contents.model_copy(update={"problem": f"{error.message}{tensors}"})
        weights = tuple(self._large(repository, file) for file in chosen)
        paths = [self._content(repository, file) for file in weights]
        try:
            facts = read_facts(paths, [file.path for file in weights])
        except InvalidModelFile as error:
            return contents.model_copy(update={"problem": error.message, "is_unsound": True})
        licence = manifest.model.license if manifest else None
        facts = replace(facts, license=facts.license or licence)
        return contents.model_copy(update={"weights": weights, "facts": facts})

    def _describe_safetensors(self, contents: Contents) -> str:
        files = [file for file in contents.large if file.path.endswith(".safetensors")]
        if not files or not all(self._blobs.has(file.sha256) for file in files):
            return ""
        try:
            return f" ({describe_safetensors([self._blobs.path(file.sha256) for file in files])})"
        except InvalidModelFile as error:
            return f"; {error.message.replace(files[0].sha256, files[0].path)}"

    def _large(self, repository: ModelRepository, file: TreeFile) -> LargeFile:
        if file.pointer is not None:
            return LargeFile(path=file.path, sha256=file.pointer.sha256, size=file.pointer.size)
        pointer = self._extract(repository, file.oid)
        return LargeFile(path=file.path, sha256=pointer.sha256, size=pointer.size, oid=file.oid)

    def _content(self, repository: ModelRepository, file: LargeFile) -> Path:
        if file.oid is not None and not self._blobs.has(file.sha256):
            self._extract(repository, file.oid)
        return self._blobs.path(file.sha256)

    def _extract(self, repository: ModelRepository, oid: str) -> Pointer:
        self._facts.mkdir(parents=True, exist_ok=True)
        temporary = self._facts / f".{oid}.{os.getpid()}.part"
        temporary.unlink(missing_ok=True)
        repository.git.write_blob(oid, temporary)
        return self._blobs.add(temporary, move=True)


def _manifest(
    repository: ModelRepository, commit: str, files: Mapping[str, TreeFile]
) -> Manifest | None:
    if MANIFEST_FILE not in files:
        return None
    try:
        content = repository.read(commit, MANIFEST_FILE, limit=MAX_MANIFEST_BYTES)
        return parse_manifest(content)
    except HyprstreamError as error:  # the weights may be sound all the same
        _log.warning("%s of %s is left aside: %s", MANIFEST_FILE, commit[:12], error)
        return None


def _link_symbolically(path: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):  # one that leads nowhere any more
        link.unlink()
    with suppress(FileExistsError):  # somebody else was faster
        link.symlink_to(path)
