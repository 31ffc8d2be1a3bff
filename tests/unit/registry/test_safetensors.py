"""A header is read for what it says, or refused with the byte and the reason; nothing is run and nothing else is read."""

import json
import os
import pickle
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyprstream.core.errors import InvalidModelFile
from hyprstream.registry.safetensors import (
    DTYPE_BITS,
    MAX_HEADER_BYTES,
    MAX_METADATA,
    Tensor,
    read_safetensors,
    refuse_pickle,
)

Entry = dict[str, object]
SOUND: dict[str, Entry] = {
    "embed": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]},
    "norm": {"dtype": "F32", "shape": [8], "data_offsets": [64, 96]},
    "scale": {"dtype": "F64", "shape": [], "data_offsets": [96, 104]},
    "none": {"dtype": "I8", "shape": [0, 3], "data_offsets": [104, 104]},
}
N_BYTES = 104


def encode(header: object, n_bytes: int = N_BYTES, *, n_spaces: int = 0) -> bytes:
    """A file with a header as JSON, or as it is if it is text already, and so many bytes of weights."""
    text = header if isinstance(header, str) else json.dumps(header)
    data = text.encode("utf-8", "surrogatepass") + b" " * n_spaces
    return struct.pack("<Q", len(data)) + data + bytes(n_bytes)


def changed(name: str, **changes: object) -> dict[str, Entry]:
    return SOUND | {name: SOUND[name] | changes}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("safetensors") / "model.safetensors"


def test_a_sound_header_says_what_is_where(path: Path) -> None:
    path.write_bytes(encode({"__metadata__": {"format": "pt"}} | SOUND, n_spaces=5))

    found = read_safetensors(path)

    begin = found.data_offset
    assert found.tensors == (
        Tensor("embed", "BF16", (4, 8), begin, 64),
        Tensor("norm", "F32", (8,), begin + 64, 32),
        Tensor("scale", "F64", (), begin + 96, 8),
        Tensor("none", "I8", (0, 3), begin + 104, 0),
    )
    assert found.metadata == {"format": "pt"}
    assert found.n_params == 32 + 8 + 1
    assert list(found.dtypes.items()) == [("BF16", 32), ("F32", 8), ("F64", 1), ("I8", 0)]
    assert found.size_bytes == begin + N_BYTES == path.stat().st_size


def test_a_file_without_tensors_has_no_parameters(path: Path) -> None:
    path.write_bytes(encode("{}", 0))

    assert (read_safetensors(path).n_params, read_safetensors(path).tensors) == (0, ())


REFUSED = {
    "no object": ("[]", "byte 8: the header must be an object"),
    "not closed": ('{"embed": {', "no object of at most"),
    "no end": ('{"__metadata__": {}', "a comma or brace must follow '__metadata__', it ends"),
    "no colon": ('{"embed" {}}', "a colon must follow the key 'embed'"),
    "no key": ("{1: 2}", "a key of the header must be a string"),
    "comma at the end": ('{"__metadata__": {},}', "a key of the header must be a string"),
    "metadata without end": (
        {"__metadata__": {str(i): "" for i in range(MAX_METADATA + 1)}},
        f"`__metadata__` has more than {MAX_METADATA} keys",
    ),
    "more after it": ("{} {}", "something follows the header's last brace"),
    "a tensor twice": ('{"a": %s, "\\u0061": %s}', "has the key 'a' twice"),
    "a field twice": (
        '{"a": {"dtype": "I8", "shape": [], "data_offsets": [0, 1], "shape": [0]}}',
        "`a` must have dtype, shape and data_offsets, each once",
    ),
    "metadata twice": ('{"__metadata__": {}, "__metadata__": {}}', "'__metadata__' twice"),
    "metadata key twice": ('{"__metadata__": {"a": "", "a": ""}}', "has the key 'a' twice"),
    "metadata number": ('{"__metadata__": {"a": 1}}', "`__metadata__` 'a' must be a string"),
    "metadata object": ('{"__metadata__": {"a": {}}}', "`__metadata__` 'a' must be a string"),
    "metadata list": ('{"__metadata__": []}', "`__metadata__` must be an object"),
    "half a character": ('{"__metadata__": {"a": "\\ud800"}}', "is no string of JSON"),
    "no such escape": ('{"__metadata__": {"a": "\\x"}}', "is no string of JSON"),
    "a new line in a string": ('{"__metadata__": {"a": "\n"}}', "must be a string"),
    "not UTF-8": ('{"__metadata__": {"a": "\udc80"}}', "is no string of JSON"),
    "brackets": ('{"a": ' + "[" * 100_000, "no object of at most"),
    "brackets in an entry": ('{"a": ' + "[" * 3000 + "}}", "is not JSON"),
    "a long number": ('{"a": {"dtype": "I8", "shape": [' + "9" * 3000 + "]}}", "must have dtype"),
    "no name": ({"": SOUND["norm"]}, "a tensor is called ''"),
    "a name to fool a terminal": ({"\x1b[2J": SOUND["norm"]}, r"a tensor is called '\\x1b\[2J'"),
    "a number": ({"norm": 1}, "`norm` is no object|`norm` is not JSON"),
    "a list": ({"norm": []}, "`norm` is no object|`norm` is not JSON"),
    "no dtype": ({"norm": {"shape": [], "data_offsets": [0, 0]}}, "must have dtype, shape and"),
    "one field more": (changed("norm", x=1), "must have dtype, shape and data_offsets"),
    "unknown dtype": (changed("norm", dtype="Q4_0"), "`norm` has the unknown dtype 'Q4_0'"),
    "dtype no text": (changed("norm", dtype=["F32"]), "`norm` has the unknown dtype"),
    "negative": (changed("norm", shape=[-8]), r"`norm` has the impossible shape \[-8\]"),
    "fraction": (changed("norm", shape=[8.0]), r"impossible shape \[8.0\]"),
    "truth": (changed("scale", shape=[True]), r"impossible shape \[True\]"),
    "infinite": (changed("norm", shape=[float("inf")]), r"impossible shape \[inf\]"),
    "shape no list": (changed("norm", shape=8), "impossible shape 8"),
    "many dimensions": (changed("scale", shape=[1] * 65), "impossible shape"),
    "huge": (changed("norm", shape=[1 << 63]), "impossible shape"),
    "overflow": (changed("norm", shape=[1 << 62, 1 << 62]), "no whole or far too many bytes"),
    "overflow to 0": (changed("none", shape=[1 << 62, 4, 0]), "no whole or far too many bytes"),
    "half a byte": (changed("scale", dtype="F4", shape=[1]), "would have 4 bits"),
    "mis-sized": (changed("norm", shape=[7]), "`norm` has 32 bytes, F32 .* needs 28"),
    "three offsets": (changed("norm", data_offsets=[64, 96, 96]), "must be where it begins"),
    "backwards": (changed("norm", data_offsets=[96, 64]), "must be where it begins and ends"),
    "negative offset": (changed("norm", data_offsets=[-32, 0]), "must be where it begins"),
    "past the end": (changed("scale", data_offsets=[100, 108]), "`scale` would end at byte"),
    "overlap": (changed("norm", data_offsets=[32, 64]), "`norm` overlaps the one before"),
    "the same bytes": (changed("norm", dtype="U64", data_offsets=[0, 64]), "overlaps|leaves a gap"),
    "a gap": ({"scale": SOUND["scale"]}, "`scale` leaves a gap"),
    "weights of nobody": ({}, "the tensors end here"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_malformed_header_is_refused_with_the_reason(path: Path, case: str) -> None:
    header, reason = REFUSED[case]
    if isinstance(header, str):
        header = header.replace("%s", json.dumps(SOUND["embed"]))
    path.write_bytes(encode(header))

    with pytest.raises(InvalidModelFile, match=reason) as error:
        read_safetensors(path)

    assert error.value.message.startswith("model.safetensors, byte ")
    assert error.value.hint


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "byte 0: the file has 0 bytes"),
        (b"\x02\0\0\0\0\0\0", "byte 0: the file has 7 bytes"),
        (bytes(8), "byte 8: the header must be an object, it ends"),
        (struct.pack("<Q", 3) + b"{}", "would end at byte 11, the file ends at 10"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1), f"{MAX_HEADER_BYTES} are allowed"),
        (b"\xff" * 100, f"the header would have {2**64 - 1} bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n", "looks like a Git LFS pointer"),
        (b"PK\x03\x04" + bytes(96), "looks like a zip archive such as a PyTorch checkpoint"),
        (b"GGUF\x03" + bytes(96), "looks like a GGUF"),
        (b"<!doctype html>", "looks like a web page"),
    ],
)
def test_a_length_that_cannot_be_is_refused(path: Path, data: bytes, reason: str) -> None:
    path.write_bytes(data)

    with pytest.raises(InvalidModelFile, match=reason):
        read_safetensors(path)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")

    with pytest.raises(InvalidModelFile, match="not a regular file"):
        read_safetensors(tmp_path / "model.safetensors")


# Whatever the bytes: read or refused.


@contextmanager
def bounded_memory(limit: int) -> Iterator[None]:
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
        found = read_safetensors(path)
    except InvalidModelFile as refusal:
        assert refusal.message.startswith("model.safetensors, byte ")
        refusal.message.encode()
        return False
    end = found.data_offset
    for tensor in found.tensors:
        assert (tensor.offset, tensor.n_bytes) == (end, _n_bytes(tensor))
        end += tensor.n_bytes
    assert end == len(data)
    reference = json.loads(data[8 : found.data_offset])
    assert reference.pop("__metadata__", {}) == found.metadata
    assert {tensor.name for tensor in found.tensors} == reference.keys()
    return True


def _n_bytes(tensor: Tensor) -> int:
    return prod(tensor.shape) * DTYPE_BITS[tensor.dtype] // 8


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
KINDS = st.tuples(
    st.sampled_from([dtype for dtype, bits in DTYPE_BITS.items() if bits >= 8]),
    st.lists(st.integers(0, 4), max_size=4),
)


@given(st.dictionaries(NAMES, KINDS, max_size=6), st.dictionaries(TEXTS, TEXTS), st.booleans())
@settings(deadline=None, database=None)
def test_what_was_written_is_read(
    path: Path,
    kinds: dict[str, tuple[str, list[int]]],
    metadata: dict[str, str],
    is_ascii: bool,
) -> None:
    kinds.pop("__metadata__", None)
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in kinds.items():
        n_bytes = prod(shape) * DTYPE_BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + n_bytes]}
        end += n_bytes

    assert is_read(path, encode(json.dumps(header, ensure_ascii=is_ascii), end))


WHOLE = encode({"__metadata__": {"format": "pt"}} | SOUND)
HEADER_SIZE = len(WHOLE) - N_BYTES


def test_a_file_cut_at_any_byte_is_refused(path: Path) -> None:
    assert [size for size in range(len(WHOLE)) if is_read(path, WHOLE[:size])] == []


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_any_byte_of_the_header_may_be_wrong(path: Path, mask: int) -> None:
    for offset in range(HEADER_SIZE):
        mutant = bytearray(WHOLE)
        mutant[offset] ^= mask
        is_read(path, mutant)


@given(
    st.lists(
        st.tuples(
            st.integers(8, HEADER_SIZE - 1),
            st.sampled_from(b'{}[]",:\\ 0123456789-eE.tfnu\x00\x80\xed\xff'),
        ),
        max_size=6,
    )
)
@settings(max_examples=300, deadline=None, database=None)
def test_bytes_that_mean_something_elsewhere_are_read_or_refused(
    path: Path, changes: list[tuple[int, int]]
) -> None:
    mutant = bytearray(WHOLE)
    for offset, byte in changes:
        mutant[offset] = byte
    is_read(path, mutant)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(TEXTS, children, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from(sorted(SOUND)), st.sampled_from(["dtype", "shape", "data_offsets"]), JSON)
@settings(max_examples=300, deadline=None, database=None)
def test_any_value_in_any_field_is_read_or_refused(
    path: Path, name: str, field: str, value: object
) -> None:
    is_read(path, encode(changed(name, **{field: value})))


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None, database=None)
def test_noise_after_a_fitting_length_is_read_or_refused(path: Path, noise: bytes) -> None:
    is_read(path, struct.pack("<Q", len(noise)) + noise)


@pytest.mark.parametrize("piece", ['"k%d":"",', "[],", "0,", '{"a":', "[", '"', "\\u0000", "     "])
def test_a_header_full_of_anything_costs_a_few_times_its_size(path: Path, piece: str) -> None:
    n_bytes = 2 << 20
    text = "".join(piece.replace("%d", str(i)) for i in range(n_bytes // len(piece)))
    for start in ('{"a": ', '{"__metadata__": {', '{"__metadata__": {"a": "', "{"):
        path.write_bytes(encode(f"{start}{text}", 0))
        with bounded_memory(24 << 20), pytest.raises(InvalidModelFile):
            read_safetensors(path)


# Pickles.


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "PyTorch_Model.BIN",
        "model.pt",
        "consolidated.00.pth",
        "last.ckpt",
        "data.pkl",
        "data.pickle",
    ],
)
def test_a_pickle_is_refused_unopened_with_the_reason_and_the_way_out(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))

    with pytest.raises(InvalidModelFile, match=r"runs whatever program is in it") as error:
        refuse_pickle(path)

    assert ".safetensors" in (error.value.hint or "")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.gguf", "tokenizer.bin", "pt", "x.ptx"]
)
def test_other_files_are_let_through(name: str) -> None:
    refuse_pickle(Path(name))
