"""Which files of a version are its model, and what they say of it. Knows names and headers of files; opens no pickle."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from hyprstream.core.errors import Invalid, InvalidModelFile
from hyprstream.core.models import ModelFacts
from hyprstream.core.versions import TreeFile
from hyprstream.registry.gguf import GGUF, read_gguf
from hyprstream.registry.manifest import MANIFEST_FILE, Manifest
from hyprstream.registry.safetensors import read_safetensors, refuse_pickle
from hyprstream.registry.sources.base import SHARD

_BESIDE_THE_MODEL = ("adapters/", "evals/")


def choose_weights(files: Mapping[str, TreeFile], manifest: Manifest | None) -> list[TreeFile]:
    """The GGUF that a version serves, or its shards in order.

    Raises:
        Invalid: it holds none, or several and no manifest says which; the message says what it holds.
    """
    found = [
        file
        for path, file in sorted(files.items())
        if path.lower().endswith(".gguf") and not path.startswith(_BESIDE_THE_MODEL)
    ]
    if manifest is not None and manifest.weights:
        listed = [files.get(entry.file) for entry in manifest.weights]
        chosen = [file for file in listed if file is not None and file in found]
        if len(chosen) == len(listed):
            return chosen
    models: dict[str, list[TreeFile]] = {}
    for file in found:
        stem = PurePosixPath(file.path).with_suffix("")
        models.setdefault(SHARD.sub("", str(stem)), []).append(file)
    projectors = {stem for stem in models if PurePosixPath(stem).name.startswith("mmproj")}
    if projectors != models.keys():
        models = {stem: shards for stem, shards in models.items() if stem not in projectors}
    if len(models) == 1:
        return next(iter(models.values()))
    if not models:
        raise Invalid(_without_gguf(list(files)))
    raise Invalid(
        f"it holds {len(models)} models ({', '.join(_some(list(models)))}), and no {MANIFEST_FILE} says which one is served"
    )


def read_facts(paths: Sequence[Path], names: Sequence[str] | None = None) -> ModelFacts:
    """What the files of one model say of it; the parameters of all shards are counted.

    Args:
        names: what the files are called where people see them.

    Raises:
        InvalidModelFile: a file is not sound, or the shards do not belong together.
    """
    shown = list(names or [path.name for path in paths])
    headers = [_read_header(path, name) for path, name in zip(paths, shown, strict=True)]
    for i, (name, header) in enumerate(zip(shown, headers, strict=True)):
        if (header.shard, header.n_shards) != (i, len(paths)):
            raise InvalidModelFile(
                f"{name} is file {header.shard + 1} of {header.n_shards} of a split model,"
                f" and stands as file {i + 1} of {len(paths)}",
                hint="give every shard the name llama-gguf-split gave it",
            )
    n_params = sum(tensor.n_elements for header in headers for tensor in header.tensors)
    return replace(headers[0].facts, n_params=n_params)


def _read_header(path: Path, name: str) -> GGUF:
    try:
        return read_gguf(path)
    except InvalidModelFile as error:
        error.message = error.message.replace(path.name, name)
        raise InvalidModelFile(error.message, hint=error.hint) from None


def describe_safetensors(paths: Sequence[Path]) -> str:
    """Parameters and types of tensors, as their headers say.

    Raises:
        InvalidModelFile: a file is not sound.
    """
    headers = [read_safetensors(path) for path in paths]
    types = list(dict.fromkeys(dtype for header in headers for dtype in header.dtypes))
    return f"{sum(header.n_params for header in headers):,} parameters of {', '.join(types) or 'no type'}"


def _without_gguf(paths: Sequence[str]) -> str:
    if tensors := [path for path in paths if path.endswith(".safetensors")]:
        return f"it holds {', '.join(_some(tensors))}, and llama.cpp needs a GGUF"
    for path in paths:
        try:
            refuse_pickle(PurePosixPath(path))
        except InvalidModelFile as error:
            return error.message
    shown = [path for path in paths if not path.startswith(".")]
    return f"it holds {', '.join(_some(shown)) or 'no files'}, and llama.cpp needs a GGUF"


def _some(paths: Sequence[str], limit: int = 4) -> list[str]:
    more = len(paths) - limit
    return [*paths[:limit], *([f"{more} more"] if more > 0 else [])]
