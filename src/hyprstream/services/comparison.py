"""What changed between two versions of a model, in the words people use. Knows files, facts and manifests; asks nobody."""

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import cast

from hyprstream.core.errors import HyprstreamError
from hyprstream.core.models import ModelFacts
from hyprstream.core.refs import ModelRef
from hyprstream.core.versions import TreeFile
from hyprstream.registry.manifest import MANIFEST_FILE

WEIGHT_SUFFIXES = frozenset({".gguf", ".safetensors", ".bin", ".pt"})
MAX_TEXT_BYTES = 1 << 20
"""Larger files are compared by their digests only."""
N_DIGEST = 12
"""Hexadecimal digits a person is shown of a digest."""


class Topic(StrEnum):
    """What a difference is about, in the order differences are listed."""

    WEIGHTS = "weights"
    ADAPTERS = "adapters"
    TEMPLATE = "template"
    SAMPLING = "sampling"
    LICENCE = "licence"
    EVALS = "evals"
    FILES = "files"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs. None on the side that has no such thing."""

    topic: Topic
    name: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Side:
    """One of two versions."""

    ref: ModelRef
    commit: str
    files: Mapping[str, TreeFile]
    facts: ModelFacts | None
    """None where the version holds no model that can be served."""
    read: Callable[[str], bytes] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything in which two versions differ."""

    old: ModelRef
    new: ModelRef
    old_commit: str
    new_commit: str
    differences: tuple[Difference, ...]


def compare(old: Side, new: Side) -> Comparison:
    """Every difference, by topic and then by name."""
    # What only one side is known to be is no difference: weights need not be here.
    has_headers = old.facts is not None and new.facts is not None
    before, after = _described(old, has_headers), _described(new, has_headers)
    differences = [
        Difference(topic, name, before.get((topic, name)), after.get((topic, name)))
        for topic, name in before | after
        if before.get((topic, name)) != after.get((topic, name))
    ]
    order = list(Topic)
    differences.sort(key=lambda difference: (order.index(difference.topic), difference.name))
    return Comparison(old.ref, new.ref, old.commit, new.commit, tuple(differences))


_Key = tuple[Topic, str]


def _described(side: Side, has_headers: bool) -> dict[_Key, str]:
    """All that can differ, as text."""
    manifest = _manifest(side)
    described: dict[_Key, str] = {}
    for path, file in side.files.items():
        described |= _file(side, path, file)
    if has_headers and side.facts is not None:
        described |= _header(side.facts)
    described |= _stated(manifest)
    for name, value in _scalars(manifest.get("sampling")):
        described[Topic.SAMPLING, name] = value
    return described


def _file(side: Side, path: str, file: TreeFile) -> dict[_Key, str]:
    folder = PurePosixPath(path).parts[0]
    if path == MANIFEST_FILE:  # told by what it says
        return {}
    if folder == "evals" and (scores := dict(_scalars(_json(side, file)))):
        return {(Topic.EVALS, f"{path} {name}"): value for name, value in scores.items()}
    if folder in ("adapters", "evals"):
        return {(Topic(folder), path): _identity(file)}
    if PurePosixPath(path).suffix in WEIGHT_SUFFIXES:
        return {(Topic.WEIGHTS, path): _identity(file)}
    return {(Topic.FILES, path): _identity(file)}


def _header(facts: ModelFacts) -> dict[_Key, str]:
    """What the weights say of themselves."""
    found = {
        (Topic.WEIGHTS, "architecture"): facts.architecture,
        (Topic.WEIGHTS, "quantisation"): facts.quantization,
        (Topic.WEIGHTS, "parameters"): f"{facts.n_params:,}",
        (Topic.WEIGHTS, "context"): f"{facts.context_length} tokens",
    }
    if facts.chat_template is not None:
        found[Topic.TEMPLATE, "in the weights"] = _text_identity(facts.chat_template)
    if facts.license is not None:
        found[Topic.LICENCE, "in the weights"] = facts.license
    return found


def _stated(manifest: Mapping[str, object]) -> dict[_Key, str]:
    """What the manifest says of the model."""
    stated = manifest.get("model")
    model = cast("dict[str, object]", stated) if isinstance(stated, dict) else {}
    keys = {
        "base": (Topic.WEIGHTS, "base"),
        "template": (Topic.TEMPLATE, "in the manifest"),
        "license": (Topic.LICENCE, "in the manifest"),
    }
    return {
        key: value.removeprefix("sha256:")
        for name, key in keys.items()
        if isinstance(value := model.get(name), str)
    }


def _identity(file: TreeFile) -> str:
    digest = file.pointer.sha256 if file.pointer else file.oid
    return f"{digest[:N_DIGEST]}, {file.size:,} bytes"


def _text_identity(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{digest[:N_DIGEST]}, {len(text):,} characters"


def _manifest(side: Side) -> Mapping[str, object]:
    # A foreign repository may hold anything under this name; then there is nothing to say of it.
    if (text := _text(side, side.files.get(MANIFEST_FILE))) is None:
        return {}
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return {}


def _json(side: Side, file: TreeFile) -> object:
    if not file.path.endswith(".json") or (text := _text(side, file)) is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _text(side: Side, file: TreeFile | None) -> str | None:
    if file is None or file.pointer is not None or file.size > MAX_TEXT_BYTES:
        return None
    try:
        return side.read(file.path).decode()
    except (HyprstreamError, UnicodeDecodeError):
        return None


def _scalars(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The numbers and words in a table of tables, by their path: `mmlu.accuracy`."""
    if isinstance(value, dict):
        for name, inner in cast("dict[str, object]", value).items():
            yield from _scalars(inner, f"{prefix}.{name}" if prefix else name)
    elif isinstance(value, (bool, int, float, str)) and prefix:
        yield prefix, str(value)
    elif isinstance(value, list) and prefix:
        yield prefix, json.dumps(value, default=str)
