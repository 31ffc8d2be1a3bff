"""Where models are kept: one directory for each. Knows the layout and the files; knows no source, engine or terminal.

<models_dir>/<name>/<ref>/model.gguf      or the shards of a split model, under their own names
<models_dir>/<name>/<ref>/manifest.json   written last: a model without it is not there
<models_dir>/.incoming/<name>@<ref>/      what an unfinished pull has so far
<models_dir>/.incoming/<name>@<ref>.lock  held by whoever changes this model
"""

import difflib
import fcntl
import logging
import shutil
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hyprstream.core.errors import Conflict, HyprstreamError, Invalid, InvalidModelFile, NotFound
from hyprstream.core.files import durable_replace, write_durably
from hyprstream.core.models import ModelFacts, StoredModel
from hyprstream.core.refs import ModelRef
from hyprstream.registry.aliases import ALIASES, DEFAULT_ALIAS
from hyprstream.registry.gguf import read_gguf
from hyprstream.registry.manifest import (
    MANIFEST_FILE,
    Manifest,
    ManifestFile,
    ManifestLicence,
    read_manifest,
)
from hyprstream.registry.sources.base import Licence, combined_digest, ref_for_file
from hyprstream.registry.sources.file import shards_of
from hyprstream.registry.sources.partial import sha256_of

_INCOMING = ".incoming"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NewFile:
    """A whole file about to enter the store."""

    path: Path
    """On the store's own disk: it is renamed, not copied."""
    name: str
    sha256: str


class ModelStore:
    """Models by reference. Any number of processes may read; one at a time changes a model."""

    def __init__(self, models_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.models_dir = models_dir.absolute()
        self._clock = clock

    def list(self) -> list[StoredModel]:
        """Every stored model, by name. One that cannot be read is logged and left out.

        Raises:
            Invalid: what should be the directory of models is something else.
        """
        if self.models_dir.exists() and not self.models_dir.is_dir():
            raise Invalid(
                f"{self.models_dir} is not a directory",
                param="models.dir",
                hint="set HYPRSTREAM_MODELS_DIR to one, or to a path where one can be made",
            )
        models: list[StoredModel] = []
        for path in self.models_dir.rglob(MANIFEST_FILE):
            name, *parts = path.parent.relative_to(self.models_dir).parts or (_INCOMING,)
            if name == _INCOMING:
                continue
            try:
                models.append(self._read(ModelRef.parse(f"{name}:{'/'.join(parts)}")))
            except (HyprstreamError, OSError) as error:
                _log.warning("model left out: %s", error)
        return sorted(models, key=lambda model: model.ref)

    def resolve(self, ref: ModelRef) -> StoredModel:
        """The model a reference names.

        Raises:
            NotFound: there is none; the hint says what is near, or how to get it.
            InvalidModelFile: its manifest cannot be read.
        """
        try:
            return self._read(ref)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"no model {str(ref)!r}", hint=self._way_to(ref)) from None

    def find(self, ref: ModelRef) -> StoredModel | None:
        """The model a reference names, if it is here and readable."""
        try:
            return self.resolve(ref)
        except (NotFound, InvalidModelFile):
            return None

    def resolve_path(self, path: Path) -> StoredModel:
        """What a GGUF outside the store is. Reads all of it, for the digest; a split model is named by any shard.

        Raises:
            NotFound: no such file.
            InvalidModelFile: not a sound GGUF.
        """
        paths = [shard.absolute() for shard in shards_of(path.expanduser())]
        if missing := next((path for path in paths if not path.is_file()), None):
            raise NotFound(f"no file {missing}", kind="file")
        facts = read_facts(paths)
        return StoredModel(
            ref=ref_for_file(path.name),
            path=str(paths[0]),
            size_bytes=sum(path.stat().st_size for path in paths),
            sha256=combined_digest([sha256_of(path) for path in paths]),
            source=str(path),
            created=int(paths[0].stat().st_mtime),
            facts=facts,
        )

    def add(
        self,
        ref: ModelRef,
        files: Sequence[NewFile],
        *,
        source: str,
        licence: Licence | None = None,
    ) -> StoredModel:
        """Give whole files their names in the store; the caller holds the model's `staging` block.

        Raises:
            InvalidModelFile: not a sound GGUF; nothing is stored.
            Invalid: the reference cannot be a directory here.
        """
        if any(part.endswith((".gguf", ".json")) for part in ref.ref.split("/")):
            raise Invalid(f"{ref} would be mistaken for a file of the store", param="name")
        facts = read_facts([file.path for file in files])
        manifest = Manifest(
            source=source,
            created=int(self._clock()),
            licence=ManifestLicence(name=licence.name, url=licence.url) if licence else None,
            files=tuple(
                ManifestFile(name=file.name, sha256=file.sha256, size=file.path.stat().st_size)
                for file in files
            ),
            facts=replace(facts, license=facts.license or (licence.name if licence else None)),
        )
        directory = self._directory(ref)
        directory.mkdir(parents=True, exist_ok=True)
        for file in files:
            durable_replace(file.path, directory / file.name)
        write_durably(
            directory / MANIFEST_FILE, manifest.model_dump_json(indent=2).encode(), mode=0o644
        )
        return _stored(ref, directory, manifest)

    def remove(self, ref: ModelRef) -> None:
        """Delete a model, whole or half pulled, and the directories this leaves empty.

        Raises:
            NotFound: there is none.
            Conflict: another process is changing it.
        """
        directory = self._directory(ref)
        if not (directory / MANIFEST_FILE).is_file() and not self._staging(ref).is_dir():
            raise NotFound(f"no model {str(ref)!r}", hint=self._way_to(ref))
        with self.staging(ref):
            # The manifest first: from here on the model is not there, whatever happens.
            for path in (directory / MANIFEST_FILE, *directory.glob("*.gguf")):
                path.unlink(missing_ok=True)
            self._prune(directory)

    @contextmanager
    def staging(self, ref: ModelRef) -> Generator[Path]:
        """The directory where a model is put together, and the only right to change it.

        Leaving the block deletes the directory; leaving it by an exception keeps it, to be continued.

        Raises:
            Conflict: another process is changing this model.
        """
        directory = self._staging(ref)
        directory.parent.mkdir(parents=True, exist_ok=True)
        # The lock's file stays: to delete it would let two processes hold a lock on two files of one name.
        with directory.with_name(f"{directory.name}.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(
                    f"another process is pulling or removing {ref}",
                    hint="wait until it is done, or end it",
                ) from None
            directory.mkdir(exist_ok=True)
            yield directory
            shutil.rmtree(directory)

    def _read(self, ref: ModelRef) -> StoredModel:
        directory = self._directory(ref)
        try:
            manifest = read_manifest(directory / MANIFEST_FILE)
        except InvalidModelFile as error:
            error.hint = f"hyprstream rm {ref}, then pull it again"
            raise
        for file in manifest.files:
            if not (directory / file.name).is_file():
                raise NotFound(
                    f"{ref} lacks its file {file.name} in {directory}",
                    kind="file",
                    hint=f"hyprstream rm {ref}, then pull it again",
                )
        return _stored(ref, directory, manifest)

    def _directory(self, ref: ModelRef) -> Path:
        return self.models_dir / ref.name / ref.ref

    def _staging(self, ref: ModelRef) -> Path:
        # `@` is in no reference, so no two references share a directory.
        return self.models_dir / _INCOMING / f"{ref.name}@{ref.ref.replace('/', '@')}"

    def _prune(self, directory: Path) -> None:
        with suppress(OSError):
            while directory != self.models_dir:
                directory.rmdir()
                directory = directory.parent

    def _way_to(self, ref: ModelRef) -> str:
        if ref in ALIASES:
            return f"hyprstream pull {ref}"
        names = [str(model.ref) for model in self.list()]
        aliases = [str(alias) for alias in ALIASES]
        if near := difflib.get_close_matches(str(ref), names, cutoff=0.5):
            return f"did you mean {' or '.join(near)}?"
        if near := difflib.get_close_matches(str(ref), aliases, n=1, cutoff=0.5):
            return f"hyprstream pull {near[0]}"
        return "hyprstream list" if names else f"hyprstream pull {DEFAULT_ALIAS}"


def read_facts(paths: Sequence[Path]) -> ModelFacts:
    """What the files of one model say of it; the parameters of all shards are counted.

    Raises:
        InvalidModelFile: a file is not sound, or the shards do not belong together.
    """
    headers = [read_gguf(path) for path in paths]
    for i, (path, header) in enumerate(zip(paths, headers, strict=True)):
        if (header.shard, header.n_shards) != (i, len(paths)):
            raise InvalidModelFile(
                f"{path.name} is file {header.shard + 1} of {header.n_shards} of a split model,"
                f" and stands as file {i + 1} of {len(paths)}",
                hint="give every shard the name llama-gguf-split gave it",
            )
    n_params = sum(tensor.n_elements for header in headers for tensor in header.tensors)
    return replace(headers[0].facts, n_params=n_params)


def _stored(ref: ModelRef, directory: Path, manifest: Manifest) -> StoredModel:
    return StoredModel(
        ref=ref,
        path=str(directory / manifest.files[0].name),
        size_bytes=manifest.size,
        sha256=manifest.sha256,
        source=manifest.source,
        created=manifest.created,
        facts=manifest.facts,
    )
