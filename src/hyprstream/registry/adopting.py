"""How models of the first layout become repositories. Knows that layout; goes away once nobody has one any more.

    <models>/<name>/<version>/manifest.json   with the files it lists beside it

A model's whole directory is moved aside first, to <models>/.adopting/<name>. What is found there is work left to do.
"""

import logging
from pathlib import Path
from shutil import rmtree
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hyprstream.core.errors import Corrupt, HyprstreamError
from hyprstream.core.files import sync_directory
from hyprstream.core.refs import ModelRef, is_model_name
from hyprstream.registry.importing import NewFile, add
from hyprstream.registry.shelf import Shelf
from hyprstream.registry.sources.base import Licence

ADOPTING = ".adopting"
OLD_MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 8 << 20

_log = logging.getLogger(__name__)


class _File(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: Annotated[str, Field(pattern=r"^[^/\\\x00.][^/\\\x00]*\.gguf$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Licence(BaseModel):
    name: str
    url: str | None = None


class _Manifest(BaseModel):
    source: str
    licence: _Licence | None = None
    files: Annotated[tuple[_File, ...], Field(min_length=1)]


def has_work(shelf: Shelf) -> bool:
    """Whether there is a model of the first layout."""
    if not shelf.models_dir.is_dir():
        return False
    is_begun = (shelf.models_dir / ADOPTING).is_dir()
    return is_begun or (shelf.state.head is None and bool(_old_names(shelf)))


def adopt(shelf: Shelf) -> None:
    """Make repositories of all models of the first layout. What cannot be read is logged and left where it is."""
    with shelf.changing():
        aside = shelf.models_dir / ADOPTING
        for name in _old_names(shelf):
            aside.mkdir(exist_ok=True)
            (shelf.models_dir / name).rename(aside / name)
            sync_directory(aside)
        if not aside.is_dir():
            return
        for path in sorted(aside.rglob(OLD_MANIFEST)):
            name, *version = path.parent.relative_to(aside).parts
            try:
                _adopt(shelf, ModelRef.parse(f"{name}:{'/'.join(version)}"), path)
            except (HyprstreamError, OSError) as error:
                _log.warning("%s is left where it is: %s", path.parent, error)
        _prune(aside)


def _old_names(shelf: Shelf) -> list[str]:
    if not shelf.models_dir.is_dir():
        return []
    return [
        path.name
        for path in sorted(shelf.models_dir.iterdir())
        if is_model_name(path.name)
        and not (path / "repo.git").exists()
        and any(path.rglob(OLD_MANIFEST))
    ]


def _adopt(shelf: Shelf, ref: ModelRef, path: Path) -> None:
    manifest = _read(path)
    with shelf.staging(ref) as staging:
        files = [_file(shelf, path.parent, staging, file) for file in manifest.files]
        licence = manifest.licence
        add(
            shelf,
            ref,
            files,
            source=manifest.source,
            licence=Licence(licence.name, licence.url) if licence else None,
            in_place=False,
        )
    path.unlink()


def _file(shelf: Shelf, directory: Path, staging: Path, file: _File) -> NewFile:
    """A listed file, in the staging directory: wherever a crash has left it on its way."""
    staged, old = staging / file.sha256, directory / file.name
    if old.is_file():
        old.rename(staged)
    elif not staged.is_file() and shelf.blobs.has(file.sha256):
        return NewFile(shelf.blobs.path(file.sha256), file.name, file.sha256)
    return NewFile(staged, file.name, file.sha256)


def _read(path: Path) -> _Manifest:
    with path.open("rb") as file:
        content = file.read(MAX_MANIFEST_BYTES)
    try:
        return _Manifest.model_validate_json(content)
    except ValidationError as error:
        raise Corrupt(f"{path} is not a manifest of the first layout") from error


def _prune(aside: Path) -> None:
    """Delete what holds no file any more."""
    for directory in sorted((path for path in aside.rglob("*") if path.is_dir()), reverse=True):
        if not any(directory.iterdir()):
            directory.rmdir()
    if not any(aside.iterdir()):
        rmtree(aside)
