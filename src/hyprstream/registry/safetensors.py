"""The safetensors format: a file's header in, names and places of its tensors out. Reads no weights and runs nothing.

The format is `README.md`, section "Format", of https://github.com/huggingface/safetensors, with what its implementation
(`safetensors/src/tensor.rs`) refuses. The header's length is compared with the file before anything is read for it, so time
and memory are bounded however the file lies.
"""

import json
import os
import re
import stat
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import BinaryIO, NoReturn, cast

from hyprstream.core.errors import InvalidModelFile

MAX_HEADER_BYTES = 100_000_000
"""What the format's own implementation allows."""
MAX_TENSORS = 1 << 16
MAX_METADATA = 1 << 14
"""Pairs of a key and a text."""
MAX_DIMENSIONS = 64
MAX_NAME_LENGTH = 1024
MAX_ENTRY_BYTES = 4096
"""What the header says of one tensor."""

HINT = "fetch the file again, or save the model again with a current safetensors library"

DTYPE_BITS: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 8,
        "F4": 4,
        "F6_E2M3": 6,
        "F6_E3M2": 6,
        "U8": 8,
        "I8": 8,
        "F8_E5M2": 8,
        "F8_E4M3": 8,
        "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8,
        "F8_E5M2FNUZ": 8,
        "I16": 16,
        "U16": 16,
        "F16": 16,
        "BF16": 16,
        "I32": 32,
        "U32": 32,
        "F32": 32,
        "C64": 64,
        "F64": 64,
        "I64": 64,
        "U64": 64,
    }
)
"""Bits of one element."""

_LENGTH = struct.Struct("<Q")
_METADATA = "__metadata__"
_SPACE = re.compile(rb"[ \t\n\r]*")
_STRING = re.compile(rb'[ \t\n\r]*("(?:[^"\\\x00-\x1f]++|\\.)*+")')
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
_PICKLES = frozenset({".pt", ".pth", ".ckpt", ".pkl", ".pickle"})


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where one tensor is."""

    name: str
    dtype: str
    """As in the file: `BF16`, `F32`, ..."""
    shape: tuple[int, ...]
    """Elements per dimension, the slowest first; empty for a single number."""
    offset: int
    """From the beginning of the file, in bytes."""
    n_bytes: int

    @property
    def n_elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Safetensors:
    """The header of a sound file. Offsets and sizes are in bytes."""

    tensors: tuple[Tensor, ...]
    """As they lie in the file."""
    metadata: Mapping[str, str]
    data_offset: int
    """Where the weights begin."""
    size_bytes: int

    @property
    def n_params(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.n_elements for tensor in self.tensors)

    @property
    def dtypes(self) -> Mapping[str, int]:
        """Elements by type, the most frequent first."""
        counts = Counter[str]()
        for tensor in self.tensors:
            counts[tensor.dtype] += tensor.n_elements
        return dict(counts.most_common())


def read_safetensors(path: Path) -> Safetensors:
    """Read and judge the header of a file.

    Raises:
        InvalidModelFile: the file is not sound; says at which byte or tensor, and why.
        OSError: the file cannot be opened or read.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # opening a FIFO would wait for a writer
        raise InvalidModelFile(f"{path.name} is not a regular file")
    with path.open("rb") as file:
        return _read(_Header(file, path.name, os.fstat(file.fileno()).st_size))


def refuse_pickle(path: Path | PurePosixPath) -> None:
    """Return unless the name is that of a PyTorch checkpoint. The file is not opened.

    Raises:
        InvalidModelFile: it is; says why such a file is never opened, and what to use.
    """
    name = path.name.lower()
    suffix = PurePosixPath(name).suffix
    if suffix in _PICKLES or (suffix == ".bin" and name.startswith("pytorch_model")):
        raise InvalidModelFile(
            f"{path.name} is a Python pickle: whoever opens one runs whatever program is in it",
            hint="use the .safetensors files of the same model, or convert it where you trust it",
        )


class _Header:
    """A cursor over an untrusted header; positions are bytes of the file.

    Not one call of the JSON decoder for all of it: brackets can make that take twenty times the header's size.
    """

    def __init__(self, file: BinaryIO, file_name: str, size: int) -> None:
        self.size = size
        self._file_name = file_name
        self._data = file.read(_LENGTH.size)
        length = self._length()
        self._data += file.read(length)
        if len(self._data) != _LENGTH.size + length:
            self.refuse(f"the file had {size} bytes and was cut while it was read", at=0)
        self.position = _LENGTH.size
        self.end = len(self._data)

    def refuse(self, reason: str, *, at: int | None = None) -> NoReturn:
        at = self.position if at is None else at
        raise InvalidModelFile(f"{self._file_name}, byte {at}: {reason}", hint=HINT)

    def members(self, what: str, limit: int) -> Iterator[str]:
        """The keys of an object, each different; the value that follows must be read before the next one."""
        self._punctuation(b"{", f"{what} must be an object")
        keys: set[str] = set()
        if self._peek() == b"}":
            self.position += 1
            return
        while True:
            at = self.position
            key = self.string(f"a key of {what}")
            if key in keys:
                self.refuse(f"{what} has the key {_shown(key)} twice", at=at)
            if len(keys) == limit:
                self.refuse(f"{what} has more than {limit} keys", at=at)
            keys.add(key)
            self._punctuation(b":", f"a colon must follow the key {_shown(key)}")
            yield key
            if self._punctuation(b",}", f"a comma or brace must follow {_shown(key)}") == b"}":
                return

    def string(self, what: str) -> str:
        found = _STRING.match(self._data, self.position)
        if found is None:
            self.refuse(f"{what} must be a string")
        try:
            text: str = json.loads(found[1].decode())
            text.encode()  # half of a surrogate pair is no character
        except ValueError as error:
            self.refuse(f"{what} is no string of JSON: {error}"[:200])
        self.position = found.end()
        return text

    def entry(self, what: str) -> dict[str, object]:
        """The object that says of one tensor what it is: it holds no other object."""
        end = self._data.find(b"}", self.position, self.position + MAX_ENTRY_BYTES) + 1
        if end == 0:
            self.refuse(f"{what} is no object of at most {MAX_ENTRY_BYTES} bytes")
        try:
            pairs: object = json.loads(
                self._data[self.position : end].decode(), object_pairs_hook=tuple
            )
        except (ValueError, RecursionError) as error:
            self.refuse(f"{what} is not JSON: {error}"[:200])
        entry = (
            dict(cast("tuple[tuple[str, object], ...]", pairs)) if isinstance(pairs, tuple) else {}
        )
        if entry.keys() != _ENTRY_KEYS or len(cast("tuple[object, ...]", pairs)) != len(entry):
            self.refuse(
                f"{what} must have dtype, shape and data_offsets, each once, and nothing else"
            )
        self.position = end
        return entry

    def finish(self) -> None:
        """Refuse what follows the object; spaces may, to align the weights."""
        if self._peek():
            self.refuse("something follows the header's last brace")

    def _length(self) -> int:
        if len(self._data) < _LENGTH.size:
            self.refuse(f"the file has {self.size} bytes, its first 8 are a length", at=0)
        length: int = _LENGTH.unpack(self._data)[0]
        looks = _looks_like(self._data)
        if length > MAX_HEADER_BYTES:
            self.refuse(
                f"the header would have {length} bytes, {MAX_HEADER_BYTES} are allowed{looks}", at=0
            )
        if _LENGTH.size + length > self.size:
            self.refuse(
                f"the header would end at byte {_LENGTH.size + length}, the file ends at {self.size}{looks}",
                at=0,
            )
        return length

    def _peek(self) -> bytes:
        """The next byte that is no space; empty at the end."""
        found = _SPACE.match(self._data, self.position)
        assert found is not None, "no space at all matches too"
        self.position = found.end()
        return self._data[self.position : self.position + 1]

    def _punctuation(self, allowed: bytes, otherwise: str) -> bytes:
        found = self._peek()
        if not found or found not in allowed:
            self.refuse(f"{otherwise}, there is {found!r}" if found else f"{otherwise}, it ends")
        self.position += 1
        return found


def _read(header: _Header) -> Safetensors:
    metadata: dict[str, str] = {}
    tensors: list[Tensor] = []
    for key in header.members("the header", MAX_TENSORS + 1):
        if key == _METADATA:
            for name in header.members(f"`{_METADATA}`", MAX_METADATA):
                metadata[name] = header.string(f"`{_METADATA}` {_shown(name)}")
        else:
            tensors.append(_read_tensor(header, key))
    header.finish()
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.n_bytes))
    _check_places(header, tensors)
    return Safetensors(tuple(tensors), MappingProxyType(metadata), header.end, header.size)


def _read_tensor(header: _Header, name: str) -> Tensor:
    if not 1 <= len(name) <= MAX_NAME_LENGTH or not name.isprintable():
        header.refuse(f"a tensor is called {_shown(name)}")
    what, at = f"tensor `{name}`", header.position
    entry = header.entry(what)
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        header.refuse(f"{what} has the unknown dtype {_shown(dtype)}", at=at)
    shape = _numbers(entry["shape"])
    if shape is None or len(shape) > MAX_DIMENSIONS:
        header.refuse(f"{what} has the impossible shape {_shown(entry['shape'])}", at=at)
    offsets = _numbers(entry["data_offsets"])
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        header.refuse(
            f"{what} has the data_offsets {_shown(entry['data_offsets'])}, must be where it begins and ends",
            at=at,
        )
    begin, end = offsets
    n_bits = _n_elements(shape) * DTYPE_BITS[dtype]
    if n_bits >= 1 << 63 or n_bits % 8:
        header.refuse(f"{what} would have {n_bits} bits, no whole or far too many bytes", at=at)
    if end - begin != n_bits // 8:
        header.refuse(
            f"{what} has {end - begin} bytes, {dtype} of the shape {_shown(list(shape))} needs {n_bits // 8}",
            at=at,
        )
    if header.end + end > header.size:
        header.refuse(
            f"{what} would end at byte {header.end + end}, the file ends at {header.size}", at=at
        )
    return Tensor(name, dtype, shape, header.end + begin, n_bits // 8)


def _numbers(found: object) -> tuple[int, ...] | None:
    """A list of whole numbers from 0 to 2⁶³-1; None of anything else."""
    if not isinstance(found, list):
        return None
    numbers = cast("list[object]", found)
    # True is an int in Python, and no number in JSON.
    if all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        return tuple(cast("list[int]", numbers))
    return None


def _n_elements(shape: tuple[int, ...]) -> int:
    """The product; 2⁶³ where a part of it is that already, even if a 0 follows."""
    n_elements = 1
    for n in shape:
        n_elements *= n
        if n_elements >= 1 << 63:
            return 1 << 63
    return n_elements


def _check_places(header: _Header, tensors: Sequence[Tensor]) -> None:
    """Refuse overlaps and gaps: in this format nothing can hide between tensors."""
    end = header.end
    for tensor in tensors:
        if tensor.offset != end:
            why = (
                "overlaps the one before"
                if tensor.offset < end
                else "leaves a gap to the one before"
            )
            header.refuse(f"tensor `{tensor.name}` {why}, which ends at {end}", at=tensor.offset)
        end += tensor.n_bytes
    if end != header.size:
        header.refuse(f"the tensors end here, the file at byte {header.size}", at=end)


def _looks_like(prefix: bytes) -> str:
    kinds = {
        b"version ": "; it looks like a Git LFS pointer, not the file it points to",
        b"PK\x03\x04": "; it looks like a zip archive such as a PyTorch checkpoint",
        b"GGUF": "; it looks like a GGUF",
        b"<": "; it looks like a web page",
    }
    return next((looks for magic, looks in kinds.items() if prefix.startswith(magic)), "")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
