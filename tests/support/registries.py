"""Registries with models in them, for tests."""

import hashlib
from pathlib import Path

from hyprstream.core.models import StoredModel
from hyprstream.core.refs import ModelRef
from hyprstream.registry.registry import NewFile, Registry
from hyprstream.registry.sources.base import Licence
from support.gguf_writer import METADATA, TENSORS, T, Tensor, V, sound, write

TINY = bytes(sound().data)
SHA256 = hashlib.sha256(TINY).hexdigest()


def another(n: int) -> bytes:
    """A sound model like no other `n`'s."""
    name = [
        (key, V(T.STRING, f"Tiny {n}") if key == "general.name" else value)
        for key, value in METADATA
    ]
    return bytes(write(name, TENSORS).data)


def add(registry: Registry, ref: str, data: bytes = TINY, source: str = "a test") -> StoredModel:
    """Import bytes as a model."""
    parsed = ModelRef.parse(ref)
    with registry.staging(parsed) as directory:
        path = directory / hashlib.sha256(data).hexdigest()
        path.write_bytes(data)
        file = NewFile(path, "model.gguf", path.name)
        return registry.add(parsed, [file], source=source, licence=Licence("MIT"))


def shards() -> dict[str, bytes]:
    """A sound model in two files, by their names."""
    files: dict[str, bytes] = {}
    for i, tensors in enumerate((TENSORS, [Tensor("blk.0.x", (32,), 0, 128)])):
        split = [
            ("split.no", V(T.U16, i)),
            ("split.count", V(T.U16, 2)),
            ("split.tensors.count", V(T.I32, 3)),
        ]
        metadata = [*METADATA, *split] if i == 0 else split
        files[f"Tiny-{i + 1:05d}-of-00002.gguf"] = bytes(write(metadata, tensors).data)
    return files


def messages(registry: Registry) -> list[str]:
    """What the registry's history says, newest first."""
    return [version.message for version in registry.log(100)]


def worktree(registry: Registry, ref: str) -> Path:
    """Where the files of a branch are."""
    parsed = ModelRef.parse(ref)
    return registry.repository(parsed.name).worktree_path(parsed.ref)


def snapshot(registry: Registry) -> list[tuple[str, str, str]]:
    """What is registered: every branch with its UUID and commit."""
    return [(str(entry.ref), entry.id, entry.commit) for entry in registry.entries()]
