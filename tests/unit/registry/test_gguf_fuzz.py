"""Whatever the bytes, a GGUF is read or refused: never another exception, never much memory."""

import math
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyprstream.core.errors import InvalidModelFile
from hyprstream.registry.gguf import GGUFArray, ValueType, read_gguf
from support.gguf_writer import METADATA, A, Metadata, T, Tensor, V, sound, write

MEMORY_LIMIT = 4 << 20
"""For files of a few kilobytes; what a lie about a size would cost is far above."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf") / "fuzzed.gguf"


@contextmanager
def bounded_memory(limit: int = MEMORY_LIMIT) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= limit, f"{peak} bytes at the peak, {limit} allowed"


def is_read(path: Path, data: bytes | bytearray) -> bool:
    """Whether the bytes are read; False if they are refused. Everything else fails the test."""
    path.write_bytes(data)
    try:
        gguf = read_gguf(path)
    except InvalidModelFile as refusal:
        assert refusal.message.startswith("fuzzed.gguf")
        return False
    assert all(tensor.offset + tensor.n_bytes <= len(data) for tensor in gguf.tensors)
    return True


# Sound files: written at random, read back equal.

INTEGER_RANGES = {
    T.U8: (0, 2**8 - 1),
    T.I8: (-(2**7), 2**7 - 1),
    T.U16: (0, 2**16 - 1),
    T.I16: (-(2**15), 2**15 - 1),
    T.U32: (0, 2**32 - 1),
    T.I32: (-(2**31), 2**31 - 1),
    T.U64: (0, 2**64 - 1),
    T.I64: (-(2**63), 2**63 - 1),
}
SCALARS: dict[T, st.SearchStrategy[object]] = {
    T.F32: st.floats(width=32, allow_nan=False),
    T.F64: st.floats(allow_nan=False),
    T.BOOL: st.booleans(),
    T.STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    **{type_: st.integers(low, high) for type_, (low, high) in INTEGER_RANGES.items()},
}
TYPES = st.sampled_from(sorted(SCALARS))
KEYS = st.text("abcdefghijklmnopqrstuvwxyz0123456789_.", min_size=1, max_size=30).map("x.".__add__)
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34), 14: (256, 210), 24: (1, 1), 39: (32, 17)}
"""Elements and bytes of a block, from the specification of a few tensor types."""


@st.composite
def values(draw: st.DrawFn) -> V | A:
    type_ = draw(TYPES)
    if draw(st.booleans()):
        return V(type_, draw(SCALARS[type_]))
    return A(type_, tuple(draw(st.lists(SCALARS[type_], max_size=8))))


@st.composite
def tensors(draw: st.DrawFn) -> list[Tensor]:
    names = draw(
        st.lists(
            st.text("abcw._0123456789", min_size=1, max_size=63),
            min_size=1,
            max_size=5,
            unique=True,
        )
    )
    return [draw(tensor(name)) for name in names]


@st.composite
def tensor(draw: st.DrawFn, name: str) -> Tensor:
    ggml_type = draw(st.sampled_from(sorted(BLOCKS)))
    block_size, block_bytes = BLOCKS[ggml_type]
    first = block_size * draw(st.integers(1, 3))
    rest = draw(st.lists(st.integers(1, 4), max_size=3))
    n_bytes = first // block_size * block_bytes * math.prod(rest)
    return Tensor(name, (first, *rest), ggml_type, n_bytes)


def as_read(value: V | A) -> object:
    if isinstance(value, A):
        return GGUFArray(ValueType(value.element_type), len(value.values), value.values)
    return value.value


@given(
    extra=st.dictionaries(KEYS, values(), max_size=8),
    some_tensors=tensors(),
    alignment=st.sampled_from([32, 64, 256]),
)
@settings(max_examples=150, deadline=None, database=None)
def test_what_was_written_is_read(
    path: Path, extra: dict[str, V | A], some_tensors: list[Tensor], alignment: int
) -> None:
    metadata: Metadata = [*METADATA, *extra.items()]
    metadata = list({**dict(metadata), "general.alignment": V(T.U32, alignment)}.items())
    file = write(metadata, some_tensors, alignment=alignment)
    path.write_bytes(file.data)

    gguf = read_gguf(path)

    assert gguf.metadata == {key: as_read(value) for key, value in metadata}
    assert [(t.name, t.shape, t.n_bytes) for t in gguf.tensors] == [
        (t.name, t.shape, t.n_bytes) for t in some_tensors
    ]
    last = gguf.tensors[-1]
    assert last.offset + last.n_bytes == gguf.size_bytes == len(file.data)


# Unsound files: exhaustively where the file is small enough, at random beyond that.

EXTREMES = (
    0,
    1,
    2,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    *(n + d for n in (2**31, 2**32, 2**60, 2**62, 2**63) for d in (-1, 0, 1)),
    -1,
    -32,
)


def test_a_file_cut_at_any_byte_is_refused(path: Path) -> None:
    data = bytes(sound().data)

    with bounded_memory():
        read = [size for size in range(len(data)) if is_read(path, data[:size])]

    assert read == []


@pytest.mark.parametrize("name", sound().integers)
def test_an_extreme_number_in_any_field_is_read_or_refused(path: Path, name: str) -> None:
    file = sound()

    with bounded_memory():
        for number in EXTREMES:
            is_read(path, file.with_integer(name, number))


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_any_byte_of_the_header_may_be_wrong(path: Path, mask: int) -> None:
    file = sound()

    with bounded_memory():
        for offset in range(file.header_size):
            mutant = bytearray(file.data)
            mutant[offset] ^= mask
            is_read(path, mutant)


@given(
    flips=st.lists(
        st.tuples(st.integers(0, sound().header_size - 1), st.integers(0, 7)), max_size=12
    )
)
@settings(max_examples=200, deadline=None, database=None)
def test_flipped_bits_are_read_or_refused(path: Path, flips: list[tuple[int, int]]) -> None:
    mutant = bytearray(sound().data)
    for offset, bit in flips:
        mutant[offset] ^= 1 << bit

    with bounded_memory():
        is_read(path, mutant)


@given(data=st.data())
@settings(max_examples=200, deadline=None, database=None)
def test_a_file_spliced_from_pieces_of_itself_is_read_or_refused(
    path: Path, data: st.DataObject
) -> None:
    whole = bytes(sound().data)
    cut = st.integers(0, len(whole))
    pieces = data.draw(st.lists(st.tuples(cut, cut), min_size=1, max_size=6))
    mutant = whole[: data.draw(cut)] + b"".join(whole[min(p) : max(p)] for p in pieces)

    with bounded_memory():
        is_read(path, mutant)


@given(tail=st.binary(max_size=400))
@settings(max_examples=200, deadline=None, database=None)
def test_noise_after_the_magic_number_is_refused(path: Path, tail: bytes) -> None:
    with bounded_memory():
        assert not is_read(path, b"GGUF\x03\0\0\0" + tail)


@pytest.mark.parametrize(
    ("name", "number", "reason"),
    [
        ("general.name:length", 1 << 33, "goes beyond the 33554432 bytes a header may have"),
        ("general.name:length", 3 << 20, "more than 1048576 bytes of text"),
        ("tokenizer.ggml.tokens[1]:length", 1 << 33, "goes beyond the 33554432 bytes"),
        ("tokenizer.ggml.tokens:n", 1 << 30, "goes beyond the 33554432 bytes"),
        ("tokenizer.ggml.tokens:n", (1 << 21) + 1, "more than 2097152 strings"),
        ("tokenizer.ggml.scores:n", 1 << 31, "goes beyond the 33554432 bytes"),
    ],
)
def test_a_lie_that_fits_a_large_file_costs_no_memory_either(
    path: Path, name: str, number: int, reason: str
) -> None:
    path.write_bytes(sound().with_integer(name, number))
    with path.open("r+b") as file:
        file.truncate(16 << 30)  # a hole: takes no space on the disk

    with bounded_memory(), pytest.raises(InvalidModelFile, match=reason):
        read_gguf(path)
