"""The GGUF format: header bytes in, metadata and tensor places out. Knows no model, no store, no network; reads no weights.

The format is `docs/gguf.md` of https://github.com/ggml-org/ggml. Every count and length is compared with what is left of
the file before anything is read or allocated for it, so time and memory are bounded however the file lies.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import BinaryIO, NamedTuple

from hyprstream.core.errors import InvalidModelFile
from hyprstream.registry.ggml_types import GGML_TYPES

MAX_HEADER_BYTES = 32 << 20
"""Everything before the weights. A vocabulary of 2¹⁸ pieces with 2¹⁹ merges takes about half of it."""
MAX_TEXT_BYTES = 1 << 20
"""Metadata that is kept as text, chat template included; long arrays of strings are not kept."""
MAX_STRINGS = 1 << 21
"""In all arrays together; bounds the time."""
MAX_KV = 512
MAX_TENSORS = 1 << 14
MAX_KEY_BYTES = 256
"""The format allows 65,535; a key becomes part of messages."""
MAX_NAME_BYTES = 63
"""ggml keeps a tensor's name in 64 bytes, the last of them zero."""
MAX_KEPT_VALUES = 512
"""Longer arrays are checked and counted, not kept. 512 is one value for each layer llama.cpp can have."""

HINT = "fetch the file again, or convert the model again with a current llama.cpp"

_MAGIC = b"GGUF"
_MIN_KV_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8
_NOT_GGUF = {
    b"vers": "a Git LFS pointer, not the file it points to",
    b"PK\x03\x04": "a zip archive such as a PyTorch checkpoint",
    b"<!DO": "a web page",
    b"<!do": "a web page",
    b"<htm": "a web page",
    b"lmgg": "a GGML file from before GGUF",
    b"tjgg": "a GGJT file from before GGUF",
}


class ValueType(IntEnum):
    """Types of metadata values, numbered as in the file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_STRUCT_CODES = {ValueType(i): code for i, code in enumerate("BbHhIif?--Qqd") if code != "-"}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class GGUFArray:
    """An array of the metadata."""

    element_type: ValueType
    n: int
    values: tuple[Scalar, ...] | None
    """None if there are more than MAX_KEPT_VALUES. Strings that are not UTF-8 (parts of characters) have U+FFFD."""


Value = Scalar | GGUFArray


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor is."""

    name: str
    shape: tuple[int, ...]
    """Elements per dimension, the fastest first, as ggml counts them."""
    ggml_type: str
    offset: int
    """From the beginning of the file, in bytes."""
    n_bytes: int

    @property
    def n_elements(self) -> int:
        return prod(self.shape)


class Reader:
    """A cursor over an untrusted header. Asks whether bytes can be there before it reads them."""

    # Not mmap: if the file is cut while it is mapped, touching it ends the process with SIGBUS.

    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        self.size = size
        self.offset = 0
        self.file_name = name
        self.n_strings = 0
        """In the arrays met so far."""
        self._file = file
        self._limit = min(size, MAX_HEADER_BYTES)
        self._text_left = MAX_TEXT_BYTES

    def refusal(self, reason: str, *, at: int | None = None, hint: str = HINT) -> InvalidModelFile:
        offset = self.offset if at is None else at
        return InvalidModelFile(f"{self.file_name}, byte {offset}: {reason}", hint=hint)

    def require(self, n_bytes: int, what: str) -> None:
        """Refuse the file if it, or the longest header we read, ends before so many more bytes."""
        if n_bytes <= self._limit - self.offset:
            return
        if n_bytes <= self.size - self.offset:
            raise self.refusal(f"{what} goes beyond the {MAX_HEADER_BYTES} bytes a header may have")
        left = self.size - self.offset
        raise self.refusal(f"{what} needs {n_bytes} bytes, the file ends after {left} more")

    def take(self, n_bytes: int, what: str) -> bytes:
        self.require(n_bytes, what)
        data = self._file.read(n_bytes)
        if len(data) != n_bytes:
            raise self.refusal(f"the file had {self.size} bytes and was cut while it was read")
        self.offset += n_bytes
        return data

    def seek(self, offset: int) -> None:
        self._file.seek(offset)
        self.offset = offset

    def u32(self, what: str) -> int:
        value: int = _U32.unpack(self.take(4, what))[0]
        return value

    def u64(self, what: str) -> int:
        value: int = _U64.unpack(self.take(8, what))[0]
        return value

    def identifier(self, what: str, max_bytes: int) -> str:
        """A key or a tensor's name: printable ASCII, not empty."""
        start = self.offset
        length = self.u64(what)
        if not 1 <= length <= max_bytes:
            raise self.refusal(f"{what} has {length} bytes, 1 to {max_bytes} are allowed", at=start)
        text = self.take(length, what).decode("latin-1")
        if not (text.isascii() and text.isprintable()):
            raise self.refusal(f"{what} is {text!r}, which is not printable ASCII", at=start)
        return text

    def text(self, what: str, *, errors: str = "strict") -> str:
        start = self.offset
        length = self.u64(what)
        self.require(length, what)
        self._text_left -= length
        if self._text_left < 0:
            raise self.refusal(
                f"{what} makes it more than {MAX_TEXT_BYTES} bytes of text", at=start
            )
        try:
            return self.take(length, what).decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise self.refusal(f"{what} is not UTF-8: {error.reason}", at=start) from None

    def strings(self, n: int, what: str) -> Iterator[bytes]:
        """The next `n` strings, one at a time; while one is in hand, `offset` is where it begins."""
        # The hot loop: a vocabulary has 10⁵ of them.
        read, unpack, limit = self._file.read, _U64.unpack, self._limit
        for index in range(n):
            prefix = read(8)
            if len(prefix) < 8:
                prefix = self.take(8, f"{what}[{index}]")  # refuses the file
            length: int = unpack(prefix)[0]
            end = self.offset + 8 + length
            if end > limit:
                self.require(8 + length, f"{what}[{index}]")
            yield read(length)
            self.offset = end

    def numbers(self, type_: ValueType, n: int, what: str) -> tuple[int | float | bool, ...]:
        layout = struct.Struct(f"<{n}{_STRUCT_CODES[type_]}")
        return layout.unpack(self.take(layout.size, what))


def read_preamble(reader: Reader) -> tuple[int, int, int]:
    """Version, number of tensors, number of key-value pairs."""
    magic = reader.take(4, "the magic number")
    if magic != _MAGIC:
        looks = f"; it looks like {_NOT_GGUF[magic]}" if magic in _NOT_GGUF else ""
        raise reader.refusal(
            f"a GGUF file begins with {_MAGIC!r}, this one with {magic!r}{looks}", at=0
        )
    version = reader.u32("the version")
    if version & 0xFFFF == 0 and version:
        raise reader.refusal("the file is big-endian; only little-endian ones can be read", at=4)
    if version not in (2, 3):
        raise reader.refusal(f"this is GGUF version {version}; versions 2 and 3 can be read", at=4)
    n_tensors = _count(reader, "tensors", MAX_TENSORS, _MIN_TENSOR_BYTES)
    n_kv = _count(reader, "key-value pairs", MAX_KV, _MIN_KV_BYTES)
    reader.require(n_kv * _MIN_KV_BYTES + n_tensors * _MIN_TENSOR_BYTES, "what the file announces")
    return version, n_tensors, n_kv


def _count(reader: Reader, of: str, limit: int, min_bytes: int) -> int:
    start = reader.offset
    n = reader.u64(f"the number of {of}")
    if n > limit:
        raise reader.refusal(f"the file announces {n} {of}, at most {limit} are allowed", at=start)
    reader.require(n * min_bytes, f"{n} {of}")
    return n


class Metadata:
    """The key-value pairs, and where each value begins, so that a refusal can say so."""

    def __init__(self, reader: Reader) -> None:
        self.values: dict[str, Value] = {}
        self.offsets: dict[str, int] = {}
        self._reader = reader

    def refusal(self, key: str, reason: str, *, hint: str = HINT) -> InvalidModelFile:
        if key in self.offsets:
            return self._reader.refusal(f"`{key}` {reason}", at=self.offsets[key], hint=hint)
        return InvalidModelFile(f"{self._reader.file_name}: `{key}` {reason}", hint=hint)

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.refusal(key, f"is {shown(value)}, must be a string")
        return value

    def integer(self, key: str, low: int, high: int, *, default: int | None = None) -> int:
        """The value in `low..high`; without a default the key must be there."""
        value = self.values.get(key, default)
        if value is None:
            raise self.refusal(key, "is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.refusal(key, f"is {shown(value)}, must be an integer from {low} to {high}")
        return value

    def array(self, key: str, element_types: tuple[ValueType, ...]) -> GGUFArray | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, GGUFArray) or value.element_type not in element_types:
            wanted = " or ".join(t.name for t in element_types)
            raise self.refusal(key, f"is {shown(value)}, must be an array of {wanted}")
        return value


def shown(value: Value) -> str:
    if isinstance(value, GGUFArray):
        return f"an array of {value.n} {value.element_type.name}"
    return f"{value[:60]!r}" if isinstance(value, str) else f"{value!r}"


def read_metadata(reader: Reader, n_kv: int) -> Metadata:
    metadata = Metadata(reader)
    for _ in range(n_kv):
        start = reader.offset
        key = reader.identifier("a key", MAX_KEY_BYTES)
        if key in metadata.values:
            raise reader.refusal(f"the key `{key}` appears twice", at=start)
        metadata.offsets[key], metadata.values[key] = _read_value(reader, key)
    return metadata


def _read_value(reader: Reader, key: str) -> tuple[int, Value]:
    """A value, after where it begins."""
    type_ = _read_type(reader, key)
    if type_ is not ValueType.ARRAY:
        return reader.offset, _read_scalar(reader, key, type_)
    element_type, n = _read_array_head(reader, key)
    start = reader.offset
    return start, GGUFArray(element_type, n, _read_array(reader, key, element_type, n))


def _read_type(reader: Reader, key: str) -> ValueType:
    start = reader.offset
    number = reader.u32(f"the type of `{key}`")
    if number > max(ValueType):
        raise reader.refusal(
            f"`{key}` has type {number}, the last known is {max(ValueType)}", at=start
        )
    return ValueType(number)


def _read_scalar(reader: Reader, key: str, type_: ValueType) -> Scalar:
    if type_ is ValueType.STRING:
        return reader.text(f"`{key}`")
    if type_ is ValueType.BOOL:
        _check_bools(reader, key, 1)
    return reader.numbers(type_, 1, f"`{key}`")[0]


def _read_array_head(reader: Reader, key: str) -> tuple[ValueType, int]:
    start = reader.offset
    element_type = _read_type(reader, key)
    if element_type is ValueType.ARRAY:
        raise reader.refusal(
            f"`{key}` is an array of arrays, which llama.cpp cannot read", at=start
        )
    n = reader.u64(f"the length of `{key}`")
    reader.require(n * _min_bytes(element_type), f"`{key}`, an array of {n} {element_type.name},")
    if element_type is ValueType.STRING:
        reader.n_strings += n
        if reader.n_strings > MAX_STRINGS:
            raise reader.refusal(f"`{key}` makes it more than {MAX_STRINGS} strings", at=start)
    return element_type, n


def _min_bytes(type_: ValueType) -> int:
    return 8 if type_ is ValueType.STRING else struct.calcsize(f"<{_STRUCT_CODES[type_]}")


def _read_array(
    reader: Reader, key: str, element_type: ValueType, n: int
) -> tuple[Scalar, ...] | None:
    what = f"`{key}`"
    is_kept = n <= MAX_KEPT_VALUES
    if element_type is ValueType.STRING:
        if is_kept:
            return tuple(reader.text(f"{what}[{i}]", errors="replace") for i in range(n))
        for _ in reader.strings(n, what):
            pass
        return None
    if element_type is ValueType.BOOL:
        _check_bools(reader, key, n)
    if is_kept:
        return reader.numbers(element_type, n, what)
    reader.seek(reader.offset + n * _min_bytes(element_type))
    return None


def _check_bools(reader: Reader, key: str, n: int) -> None:
    """Refuse a truth that is neither 0 nor 1, for C++ may do anything with it. Leaves the cursor where it was."""
    start = reader.offset
    for chunk in range(start, start + n, 1 << 16):
        values = reader.take(min(1 << 16, start + n - chunk), f"`{key}`")
        if wrong := values.translate(None, b"\x00\x01"):
            at = chunk + values.index(wrong[0])
            raise reader.refusal(
                f"`{key}` has the byte {wrong[0]} for a truth, must be 0 or 1", at=at
            )
    reader.seek(start)


class TensorEntry(NamedTuple):
    """What the header says of a tensor, before it is known where the weights begin."""

    start: int
    """Where the entry is in the header."""
    name: str
    shape: tuple[int, ...]
    ggml_type: str
    offset: int
    """From where the weights begin."""
    n_bytes: int


def read_tensor(reader: Reader) -> TensorEntry:
    start = reader.offset
    name = reader.identifier("a tensor's name", MAX_NAME_BYTES)
    shape = _read_shape(reader, name)
    at = reader.offset
    number = reader.u32(f"the type of tensor `{name}`")
    type_ = GGML_TYPES.get(number)
    if type_ is None:
        raise reader.refusal(f"tensor `{name}` has the unknown ggml type {number}", at=at)
    if shape[0] % type_.block_size:
        raise reader.refusal(
            f"rows of tensor `{name}` have {shape[0]} elements, {type_.name} needs a multiple of {type_.block_size}",
            at=start,
        )
    n_bytes = type_.n_bytes(prod(shape))
    offset = reader.u64(f"the offset of tensor `{name}`")
    return TensorEntry(start, name, shape, type_.name, offset, n_bytes)


def _read_shape(reader: Reader, name: str) -> tuple[int, ...]:
    start = reader.offset
    n_dims = reader.u32(f"the rank of tensor `{name}`")
    if not 1 <= n_dims <= 4:
        raise reader.refusal(f"tensor `{name}` has {n_dims} dimensions, must have 1 to 4", at=start)
    shape = tuple(reader.u64(f"the shape of tensor `{name}`") for _ in range(n_dims))
    if 0 in shape or prod(shape) >= 1 << 63:
        raise reader.refusal(f"tensor `{name}` has the impossible shape {shape}", at=start)
    return shape


def place(
    reader: Reader, entries: list[TensorEntry], data_offset: int, alignment: int
) -> tuple[TensorInfo, ...]:
    """Give each tensor its place in the file. llama.cpp reads them back to back, each padded to the alignment."""
    tensors: dict[str, TensorInfo] = {}
    expected = 0
    for entry in entries:
        if entry.name in tensors:
            raise reader.refusal(f"the tensor `{entry.name}` appears twice", at=entry.start)
        _check_place(reader, entry, expected, data_offset, alignment)
        tensors[entry.name] = TensorInfo(
            entry.name, entry.shape, entry.ggml_type, data_offset + entry.offset, entry.n_bytes
        )
        expected = pad(entry.offset + entry.n_bytes, alignment)
    return tuple(tensors.values())


def _check_place(
    reader: Reader, entry: TensorEntry, expected: int, data_offset: int, alignment: int
) -> None:
    tensor, offset = f"tensor `{entry.name}`", entry.offset
    if offset % alignment:
        raise reader.refusal(
            f"{tensor} is at {offset}, not a multiple of {alignment}", at=entry.start
        )
    if offset < expected:
        raise reader.refusal(
            f"{tensor} is at {offset} and overlaps the one before, which ends at {expected}",
            at=entry.start,
        )
    if offset > expected:
        raise reader.refusal(
            f"{tensor} is at {offset}, after a gap: it must be at {expected}", at=entry.start
        )
    if (end := data_offset + offset + entry.n_bytes) > reader.size:
        raise reader.refusal(
            f"{tensor} of {entry.n_bytes} bytes would end at byte {end}, the file ends at {reader.size}",
            at=entry.start,
        )


def pad(offset: int, alignment: int) -> int:
    return (offset + alignment - 1) // alignment * alignment
