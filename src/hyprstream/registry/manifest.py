"""`manifest.toml`, which describes a version of a model to people and tools. Knows its schema and distrusts its content.

    [model]      name, base, architecture, parameters, quantization, context_length, license, template (its digest)
    [[weights]]  file, sha256, size
    [sampling]   what to sample with unless a request says otherwise
    [lineage]    source, parent, created_by

What it says of the weights is a claim: the tree of the commit decides which bytes are served.
"""

import hashlib
import tomllib
from typing import Annotated

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hyprstream.core.errors import InvalidModelFile
from hyprstream.core.models import ModelFacts
from hyprstream.core.versions import Pointer
from hyprstream.registry.sources.base import Licence

MANIFEST_FILE = "manifest.toml"
MAX_MANIFEST_BYTES = 1 << 20
MAX_WEIGHTS = 10_000

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FilePath = Annotated[
    str,
    Field(
        max_length=1024,
        pattern=r"^[^/\\\x00-\x1f.][^/\\\x00-\x1f]*(/[^/\\\x00-\x1f.][^/\\\x00-\x1f]*)*$",
    ),
]
Text = Annotated[str, Field(max_length=1024)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class ModelTable(_Table):
    """What the model is."""

    name: Text | None = None
    base: Text | None = None
    """The model it was made from, as a reference or as its publisher calls it."""
    architecture: Text | None = None
    parameters: Annotated[int, Field(ge=0)] | None = None
    quantization: Text | None = None
    context_length: Annotated[int, Field(ge=1)] | None = None
    license: Text | None = None
    license_url: Text | None = None
    template: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None


class WeightsTable(_Table):
    """One file of the weights."""

    file: FilePath
    sha256: Sha256
    size: Annotated[int, Field(gt=0)]


class SamplingTable(_Table):
    """Defaults of sampling; what is missing is the server's."""

    temperature: Annotated[float, Field(ge=0)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0)] | None = None


class LineageTable(_Table):
    """Where the version comes from."""

    source: Annotated[str, Field(max_length=4096)] | None = None
    parent: Text | None = None
    created_by: Text | None = None


class Manifest(_Table):
    """The whole file. Tables and keys nobody knows are left alone."""

    model: ModelTable = ModelTable()
    weights: Annotated[tuple[WeightsTable, ...], Field(max_length=MAX_WEIGHTS)] = ()
    sampling: SamplingTable = SamplingTable()
    lineage: LineageTable = LineageTable()


def manifest_of(
    facts: ModelFacts,
    weights: dict[str, Pointer],
    *,
    source: str,
    licence: Licence | None = None,
) -> Manifest:
    """What is written beside weights that come from elsewhere."""
    template = facts.chat_template
    return Manifest(
        model=ModelTable(
            name=facts.name[:1024] if facts.name else None,
            architecture=facts.architecture,
            parameters=facts.n_params,
            quantization=facts.quantization,
            context_length=facts.context_length,
            license=(facts.license or (licence.name if licence else None) or "")[:1024] or None,
            license_url=licence.url if licence else None,
            template=f"sha256:{hashlib.sha256(template.encode()).hexdigest()}"
            if template
            else None,
        ),
        weights=tuple(
            WeightsTable(file=file, sha256=pointer.sha256, size=pointer.size)
            for file, pointer in weights.items()
        ),
        lineage=LineageTable(source=source, created_by="hyprstream"),
    )


def encode_manifest(manifest: Manifest) -> bytes:
    """As TOML; tables without a value are left out."""
    tables = manifest.model_dump(exclude_none=True)
    return tomli_w.dumps({name: table for name, table in tables.items() if table}).encode()


def parse_manifest(content: bytes, where: str = MANIFEST_FILE) -> Manifest:
    """Read and check a manifest.

    Raises:
        InvalidModelFile: it is too long, no TOML, or does not follow the schema.
    """
    if len(content) > MAX_MANIFEST_BYTES:
        raise InvalidModelFile(f"{where} is longer than {MAX_MANIFEST_BYTES} bytes")
    try:
        return Manifest.model_validate(tomllib.loads(content.decode()))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        raise InvalidModelFile(f"{where} is not a manifest: {at}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, or nested beyond reason
        raise InvalidModelFile(f"{where} is not TOML: {str(error)[:200]}") from error
