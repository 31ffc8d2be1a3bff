"""Writes GGUF files for tests, sound and unsound alike. Written from the specification; shares nothing with the reader.

Every integer of the header is remembered by name, so that a test can lie in exactly one of them.
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum


class T(IntEnum):
    """Types of metadata values."""

    U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)


_CODES = {
    T.U8: "B",
    T.I8: "b",
    T.U16: "H",
    T.I16: "h",
    T.U32: "I",
    T.I32: "i",
    T.F32: "f",
    T.BOOL: "B",
    T.U64: "Q",
    T.I64: "q",
    T.F64: "d",
}


@dataclass(frozen=True)
class V:
    """A metadata value of a given type."""

    type: T
    value: object


@dataclass(frozen=True)
class A:
    """An array value. Elements of type ARRAY are themselves `A`."""

    element_type: T
    values: tuple[object, ...]
    type = T.ARRAY


@dataclass(frozen=True)
class Tensor:
    """A tensor and how many bytes of zeros stand for it. Without an offset it follows the one before."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int = 0
    n_bytes: int = 0
    offset: int | None = None


@dataclass(frozen=True)
class IntegerField:
    """Where the writer put an integer."""

    offset: int
    size: int


@dataclass
class GGUFFile:
    """The bytes of a file and where its integers are."""

    data: bytearray = field(default_factory=bytearray)
    integers: dict[str, IntegerField] = field(default_factory=dict)
    header_size: int = 0

    def with_integer(self, name: str, value: int) -> bytes:
        """The file with one integer replaced; negative values in two's complement."""
        place = self.integers[name]
        data = bytearray(self.data)
        lie = (value % (1 << 8 * place.size)).to_bytes(place.size, "little")
        data[place.offset : place.offset + place.size] = lie
        return bytes(data)


Metadata = list[tuple[str, V | A]]


def write(
    metadata: Metadata, tensors: list[Tensor], *, version: int = 3, alignment: int = 32
) -> GGUFFile:
    file = GGUFFile(bytearray(b"GGUF"))
    _integer(file, "version", 4, version)
    _integer(file, "n_tensors", 8, len(tensors))
    _integer(file, "n_kv", 8, len(metadata))
    for key, value in metadata:
        _string(file, f"{key}:key", key.encode())
        _integer(file, f"{key}:type", 4, value.type)
        _value(file, key, value)
    end = 0
    for tensor in tensors:
        offset = end if tensor.offset is None else tensor.offset
        _tensor(file, tensor, offset)
        end = _pad(offset + tensor.n_bytes, alignment)
    file.header_size = len(file.data)
    _weights(file, tensors, alignment)
    return file


def _integer(file: GGUFFile, name: str, size: int, value: int) -> None:
    file.integers[name] = IntegerField(len(file.data), size)
    file.data += value.to_bytes(size, "little")


def _string(file: GGUFFile, name: str, text: bytes) -> None:
    _integer(file, f"{name}:length", 8, len(text))
    file.data += text


def _value(file: GGUFFile, name: str, value: V | A) -> None:
    if isinstance(value, A):
        _integer(file, f"{name}:element_type", 4, value.element_type)
        _integer(file, f"{name}:n", 8, len(value.values))
        for index, element in enumerate(value.values):
            _value(file, f"{name}[{index}]", _element(value.element_type, element))
    elif value.type is T.STRING:
        _string(
            file, name, value.value if isinstance(value.value, bytes) else str(value.value).encode()
        )
    else:
        code = _CODES[value.type]
        file.integers[name] = IntegerField(len(file.data), struct.calcsize(f"<{code}"))
        file.data += struct.pack(f"<{code}", value.value)


def _element(type_: T, element: object) -> V | A:
    return element if isinstance(element, A) else V(type_, element)


def _tensor(file: GGUFFile, tensor: Tensor, offset: int) -> None:
    name = tensor.name
    _string(file, f"{name}:name", name.encode())
    _integer(file, f"{name}:n_dims", 4, len(tensor.shape))
    for index, n in enumerate(tensor.shape):
        _integer(file, f"{name}:shape[{index}]", 8, n)
    _integer(file, f"{name}:ggml_type", 4, tensor.ggml_type)
    _integer(file, f"{name}:offset", 8, offset)


def _weights(file: GGUFFile, tensors: list[Tensor], alignment: int) -> None:
    for tensor in tensors:
        file.data += bytes(_pad(len(file.data), alignment) - len(file.data))
        file.data += bytes(tensor.n_bytes)


def _pad(offset: int, alignment: int) -> int:
    return offset + -offset % alignment


# A sound model of two tensors, the smallest that uses every kind of field.

PIECES = ("<unk>", "<0x0A>", "▁the", "")
METADATA: Metadata = [
    ("general.architecture", V(T.STRING, "llama")),
    ("general.type", V(T.STRING, "model")),
    ("general.name", V(T.STRING, "Tiny")),
    ("general.license", V(T.STRING, "apache-2.0")),
    ("general.alignment", V(T.U32, 32)),
    ("general.file_type", V(T.U32, 2)),
    ("llama.block_count", V(T.U32, 1)),
    ("llama.context_length", V(T.U32, 128)),
    ("llama.embedding_length", V(T.U32, 32)),
    ("tokenizer.ggml.add_bos_token", V(T.BOOL, True)),
    ("tokenizer.ggml.tokens", A(T.STRING, PIECES)),
    ("tokenizer.ggml.scores", A(T.F32, (0.0, -1.0, -2.0, -3.0))),
    ("tokenizer.ggml.token_type", A(T.I32, (2, 6, 1, 1))),
    ("tokenizer.chat_template", V(T.STRING, "{{ messages }}")),
]
TENSORS = [
    Tensor("token_embd.weight", (32, 4), ggml_type=2, n_bytes=4 * 18),
    Tensor("output_norm.weight", (32,), ggml_type=0, n_bytes=32 * 4),
]


def sound() -> GGUFFile:
    """The sound model: `METADATA` and `TENSORS`."""
    return write(METADATA, TENSORS)
