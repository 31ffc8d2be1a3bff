"""What is written beside a stored model. Knows the file's schema and distrusts its content; knows no directory layout."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hyprstream.core.errors import InvalidModelFile
from hyprstream.core.models import ModelFacts
from hyprstream.registry.sources.base import combined_digest

MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 8 << 20

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[^/\\\x00.][^/\\\x00]*\.gguf$")]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class ManifestFile(_Value):
    """One GGUF file, in the manifest's own directory."""

    name: FileName
    sha256: Sha256
    size: Annotated[int, Field(gt=0)]


class ManifestLicence(_Value):
    """Terms the model came under."""

    name: str
    url: str | None = None


class Manifest(_Value):
    """Everything `list` and `show` need, so that neither reads a model."""

    schema_version: Literal[1] = 1
    source: str
    created: int
    """Seconds since the epoch."""
    licence: ManifestLicence | None = None
    files: Annotated[tuple[ManifestFile, ...], Field(min_length=1)]
    facts: ModelFacts

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def sha256(self) -> str:
        """One digest for the whole model."""
        return combined_digest([file.sha256 for file in self.files])


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        InvalidModelFile: it does not follow the schema.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MAX_MANIFEST_BYTES + 1)
    if len(content) > MAX_MANIFEST_BYTES:
        raise InvalidModelFile(f"{path} is longer than {MAX_MANIFEST_BYTES} bytes")
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidModelFile(f"{path} is not a manifest: {where} {first['msg']}") from error
