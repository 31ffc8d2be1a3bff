"""The gate before llama.cpp: a file in, a sound header or the reason for refusing it out. Knows files and shards.

`gguf_format` knows the bytes, `gguf_model` what llama.cpp makes of them.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from hyprstream.core.errors import InvalidModelFile
from hyprstream.core.models import ModelFacts
from hyprstream.registry.gguf_format import (
    GGUFArray,
    Metadata,
    Reader,
    TensorInfo,
    Value,
    ValueType,
    pad,
    place,
    read_metadata,
    read_preamble,
    read_tensor,
)
from hyprstream.registry.gguf_model import check_vocabulary, judge

__all__ = ["GGUF", "GGUFArray", "TensorInfo", "Value", "ValueType", "read_gguf"]

DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class GGUF:
    """The header of a sound file. Offsets and sizes are in bytes."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset: int
    """Where the weights begin."""
    size_bytes: int
    shard: int
    """Which of the files of a split model this is, from 0."""
    n_shards: int
    _facts: ModelFacts | None = field(repr=False)

    @property
    def facts(self) -> ModelFacts:
        """What the model is. In a split model `n_params` counts this file only.

        Raises:
            InvalidModelFile: this is not the first file of a split model, so it does not say.
        """
        if self._facts is None:
            raise InvalidModelFile(
                f"this is file {self.shard + 1} of {self.n_shards} of a split model",
                hint="name the first file; the others are found beside it",
            )
        return self._facts


def read_gguf(path: Path) -> GGUF:
    """Read and judge the header of a file.

    Raises:
        InvalidModelFile: the file is not a sound model; says at which byte and why.
        OSError: the file cannot be opened or read.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # opening a FIFO would wait for a writer
        raise InvalidModelFile(f"{path.name} is not a regular file")
    with path.open("rb") as file:
        return _read(Reader(file, path.name, os.fstat(file.fileno()).st_size))


def _read(reader: Reader) -> GGUF:
    version, n_tensors, n_kv = read_preamble(reader)
    metadata = read_metadata(reader, n_kv)
    alignment = _alignment(metadata)
    shard, n_shards = _split(metadata)
    if n_tensors == 0 and n_shards == 1:
        raise reader.refusal("the file has metadata but no tensors")
    entries = [read_tensor(reader) for _ in range(n_tensors)]
    data_offset = pad(reader.offset, alignment)
    tensors = place(reader, entries, data_offset, alignment)
    facts = None
    if shard == 0:
        facts = judge(metadata, tensors)
        check_vocabulary(reader, metadata)
    return GGUF(
        version=version,
        metadata=MappingProxyType(metadata.values),
        tensors=tensors,
        alignment=alignment,
        data_offset=data_offset,
        size_bytes=reader.size,
        shard=shard,
        n_shards=n_shards,
        _facts=facts,
    )


def _alignment(metadata: Metadata) -> int:
    # ggml asserts that tensors in memory are 32-byte aligned, and a mapped file is used as it lies.
    alignment = metadata.integer("general.alignment", 32, 1 << 16, default=DEFAULT_ALIGNMENT)
    if alignment.bit_count() != 1:
        raise metadata.refusal("general.alignment", f"is {alignment}, must be a power of two")
    return alignment


def _split(metadata: Metadata) -> tuple[int, int]:
    """Which shard of how many; a model in one file is shard 0 of 1."""
    n_shards = max(1, metadata.integer("split.count", 0, 0xFFFF, default=1))
    return metadata.integer("split.no", 0, n_shards - 1, default=0), n_shards
