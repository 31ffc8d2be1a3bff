"""A GGUF header is read as it was written, and every lie in one is refused with its reason."""

import io
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hyprstream.core.errors import InvalidModelFile
from hyprstream.registry.gguf import GGUFArray, ValueType, read_gguf
from hyprstream.registry.gguf_format import Reader
from support.gguf_writer import METADATA, TENSORS, A, GGUFFile, Metadata, T, Tensor, V, sound, write

Q4_0, Q4_K = 2, 12


def with_value(key: str, value: V | A) -> Metadata:
    """The sound metadata with one value replaced, or added."""
    changed = dict(METADATA)
    changed[key] = value
    return list(changed.items())


def without(key: str) -> Metadata:
    return [(k, v) for k, v in METADATA if k != key]


def on_disk(directory: Path, data: bytes | bytearray | GGUFFile) -> Path:
    path = directory / "tiny.gguf"
    path.write_bytes(data.data if isinstance(data, GGUFFile) else data)
    return path


def test_a_sound_file_tells_what_it_is(tmp_path: Path) -> None:
    facts = read_gguf(on_disk(tmp_path, sound())).facts

    assert (facts.architecture, facts.name, facts.license) == ("llama", "Tiny", "apache-2.0")
    assert (facts.n_layers, facts.context_length, facts.embedding_length) == (1, 128, 32)
    assert (facts.n_params, facts.vocab_size) == (32 * 4 + 32, 4)
    assert facts.quantization == "Q4_0"
    assert facts.chat_template == "{{ messages }}"


def test_tensors_are_found_where_they_are_in_the_file(tmp_path: Path) -> None:
    file = sound()
    gguf = read_gguf(on_disk(tmp_path, file))

    embedding, norm = gguf.tensors
    assert gguf.data_offset % 32 == 0
    assert 0 <= gguf.data_offset - file.header_size < 32
    assert (embedding.name, embedding.shape, embedding.ggml_type) == (
        "token_embd.weight",
        (32, 4),
        "Q4_0",
    )
    assert (embedding.offset, embedding.n_bytes) == (gguf.data_offset, 72)
    assert (norm.offset, norm.n_bytes) == (gguf.data_offset + 96, 128)
    assert gguf.size_bytes == norm.offset + norm.n_bytes


def test_a_long_array_is_counted_and_not_kept(tmp_path: Path) -> None:
    long = A(T.STRING, tuple(f"piece {i}" for i in range(2000)))
    gguf = read_gguf(on_disk(tmp_path, write(with_value("tokenizer.ggml.merges", long), TENSORS)))

    assert gguf.metadata["tokenizer.ggml.merges"] == GGUFArray(ValueType.STRING, 2000, None)


def with_merges() -> GGUFFile:
    """A sound file with an array too long to be kept."""
    merges = A(T.STRING, tuple(f"a b{i}" for i in range(1000)))
    return write(with_value("tokenizer.ggml.merges", merges), TENSORS)


def test_every_string_of_an_array_that_is_not_kept_is_measured(tmp_path: Path) -> None:
    file = with_merges()

    for length in (5000, 1 << 40, 1 << 63):
        mutant = file.with_integer("tokenizer.ggml.merges[900]:length", length)
        with pytest.raises(
            InvalidModelFile, match=r"merges`\[900\] needs \d+ bytes, the file ends"
        ):
            read_gguf(on_disk(tmp_path, mutant))


def test_an_array_that_is_not_kept_may_be_cut_nowhere(tmp_path: Path) -> None:
    file = with_merges()
    start = file.integers["tokenizer.ggml.merges[990]:length"].offset

    for size in range(start, file.header_size):
        with pytest.raises(InvalidModelFile, match="the file ends after"):
            read_gguf(on_disk(tmp_path, file.data[:size]))


def test_a_file_that_is_cut_while_it_is_read_is_refused() -> None:
    def reader() -> Reader:
        return Reader(io.BytesIO(bytes(4)), "cut.gguf", size=1000)

    with pytest.raises(InvalidModelFile, match="had 1000 bytes and was cut"):
        reader().take(8, "a number")
    with pytest.raises(InvalidModelFile, match="had 1000 bytes and was cut"):
        list(reader().strings(2, "pieces"))


def test_version_2_is_read_like_version_3(tmp_path: Path) -> None:
    gguf = read_gguf(on_disk(tmp_path, write(METADATA, TENSORS, version=2)))

    assert gguf.version == 2
    assert gguf.facts.architecture == "llama"


def test_a_wider_alignment_is_honoured(tmp_path: Path) -> None:
    metadata = with_value("general.alignment", V(T.U32, 4096))
    gguf = read_gguf(on_disk(tmp_path, write(metadata, TENSORS, alignment=4096)))

    assert [tensor.offset for tensor in gguf.tensors] == [4096, 8192]


@pytest.mark.parametrize(
    ("file_type", "tensor_type", "name"),
    [
        (Q4_0, Q4_0, "Q4_0"),
        (15, Q4_K, "Q4_K_M"),
        (1024 + 15, Q4_K, "Q4_K_M"),
        (15, Q4_0, "Q4_0"),
        (999, Q4_0, "Q4_0"),
        (None, Q4_K, "Q4_K"),
    ],
    ids=["plain", "mix", "guessed", "not borne out by the tensors", "unknown", "missing"],
)
def test_the_quantization_is_what_the_file_says_if_its_tensors_agree(
    tmp_path: Path, file_type: int | None, tensor_type: int, name: str
) -> None:
    metadata = (
        without("general.file_type")
        if file_type is None
        else with_value("general.file_type", V(T.U32, file_type))
    )
    n_bytes = 144 if tensor_type == Q4_K else 8 * 18
    tensors = [Tensor("token_embd.weight", (256,), tensor_type, n_bytes), TENSORS[1]]

    assert read_gguf(on_disk(tmp_path, write(metadata, tensors))).facts.quantization == name


def test_without_a_vocabulary_its_size_is_the_architectures_word(tmp_path: Path) -> None:
    metadata = [(k, v) for k, v in METADATA if not k.startswith("tokenizer.ggml")]
    metadata.append(("llama.vocab_size", V(T.U32, 49152)))

    assert read_gguf(on_disk(tmp_path, write(metadata, TENSORS))).facts.vocab_size == 49152


def test_the_first_file_of_a_split_model_may_hold_metadata_only(tmp_path: Path) -> None:
    metadata = [*METADATA, ("split.no", V(T.U16, 0)), ("split.count", V(T.U16, 3))]
    gguf = read_gguf(on_disk(tmp_path, write(metadata, [])))

    assert (gguf.shard, gguf.n_shards) == (0, 3)
    assert gguf.facts.quantization == "Q4_0"


def test_a_later_file_of_a_split_model_is_sound_but_has_no_facts(tmp_path: Path) -> None:
    metadata: Metadata = [("split.no", V(T.U16, 1)), ("split.count", V(T.U16, 3))]
    gguf = read_gguf(on_disk(tmp_path, write(metadata, TENSORS)))

    assert (gguf.shard, gguf.n_shards, len(gguf.tensors)) == (1, 3, 2)
    with pytest.raises(InvalidModelFile, match="file 2 of 3"):
        _ = gguf.facts


def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe.gguf"
    os.mkfifo(fifo)

    for path in (fifo, tmp_path):
        with pytest.raises(InvalidModelFile, match="not a regular file"):
            read_gguf(path)


def test_a_refusal_says_where_why_and_what_to_do(tmp_path: Path) -> None:
    file = write(with_value("llama.block_count", V(T.U32, 513)), TENSORS)

    with pytest.raises(InvalidModelFile) as refusal:
        read_gguf(on_disk(tmp_path, file))

    offset = file.integers["llama.block_count"].offset
    assert refusal.value.message == (
        f"tiny.gguf, byte {offset}: `llama.block_count` is 513, must be an integer from 1 to 512"
    )
    assert refusal.value.hint


def test_a_smollm2_is_what_its_card_says(smollm2_path: Path) -> None:
    gguf = read_gguf(smollm2_path)

    facts = gguf.facts
    assert (facts.architecture, facts.n_layers, facts.context_length) == ("llama", 30, 8192)
    assert (facts.quantization, facts.license) == ("Q4_1", "apache-2.0")
    assert (facts.n_params, facts.vocab_size) == (134_515_008, 49_152)
    assert "<|im_start|>" in (facts.chat_template or "")
    assert gguf.tensors[-1].offset + gguf.tensors[-1].n_bytes == gguf.size_bytes


def test_an_empty_piece_may_not_take_the_name_llama_cpp_gives_to_one(tmp_path: Path) -> None:
    pieces = A(T.STRING, ("a", "<0x0A>", "[EMPTY_3]", ""))
    file = write(with_value("tokenizer.ggml.tokens", pieces), TENSORS)

    with pytest.raises(InvalidModelFile, match=r"tokens\[3\]` is b'' for the second time"):
        read_gguf(on_disk(tmp_path, file))


def test_a_mixture_of_experts_is_sound(tmp_path: Path) -> None:
    experts: Metadata = [
        ("llama.expert_count", V(T.U32, 8)),
        ("llama.expert_used_count", A(T.U32, (2, 2))),
        ("llama.expert_group_count", V(T.U32, 4)),
        ("llama.expert_group_used_count", V(T.U32, 2)),
    ]
    gguf = read_gguf(on_disk(tmp_path, write([*METADATA, *experts], TENSORS)))

    assert gguf.metadata["llama.expert_count"] == 8


# Every mutant is the sound file with one lie, and a pattern its refusal must match.

HUGE = 1 << 60


def lie(name: str, value: int) -> Callable[[], bytes]:
    return lambda: sound().with_integer(name, value)


def meta(key: str, value: V | A) -> Callable[[], bytes]:
    return lambda: bytes(write(with_value(key, value), TENSORS).data)


def missing(key: str) -> Callable[[], bytes]:
    return lambda: bytes(write(without(key), TENSORS).data)


def tensors(*changed: Tensor) -> Callable[[], bytes]:
    return lambda: bytes(write(METADATA, list(changed)).data)


def strings(*pieces: str) -> A:
    return A(T.STRING, pieces)


EMBEDDING, NORM = TENSORS
MUTANTS: dict[str, tuple[Callable[[], bytes], str]] = {
    # the preamble
    "an empty file": (lambda: b"", r"byte 0: the magic number needs 4 bytes.*after 0"),
    "another magic number": (lambda: b"GGML" + sound().data[4:], r"begins with b'GGUF'.*b'GGML'"),
    "a Git LFS pointer": (lambda: b"version https://git-lfs", r"Git LFS pointer"),
    "a zip archive": (lambda: b"PK\x03\x04" + bytes(99), r"zip archive"),
    "a web page": (lambda: b"<!DOCTYPE html>", r"web page"),
    "version 0": (lie("version", 0), r"byte 4: this is GGUF version 0"),
    "version 1": (lie("version", 1), r"version 1; versions 2 and 3"),
    "version 4": (lie("version", 4), r"version 4; versions 2 and 3"),
    "big-endian": (lie("version", 3 << 24), r"big-endian"),
    "2^62 tensors": (lie("n_tensors", 1 << 62), rf"{1 << 62} tensors, at most"),
    "2^60 key-value pairs": (lie("n_kv", HUGE), rf"{HUGE} key-value pairs, at most"),
    "-1 key-value pairs": (lie("n_kv", -1), r"18446744073709551615 key-value pairs"),
    "more tensors than bytes": (lie("n_tensors", 5000), r"5000 tensors needs .* the file ends"),
    "more pairs than bytes": (lie("n_kv", 500), r"500 key-value pairs needs .* the file ends"),
    "one pair too many": (
        lie("n_kv", len(METADATA) + 1),
        r"a tensor's name has \d{9,} bytes",
    ),
    "one pair too few": (lie("n_kv", len(METADATA) - 1), r"tensor `tokenizer.chat_template`"),
    "no tensors": (lambda: bytes(write(METADATA, []).data), r"no tensors"),
    # keys
    "a key of 2^63 bytes": (
        lie("general.name:key:length", 1 << 63),
        r"key has 9223372036854775808",
    ),
    "a key of no bytes": (meta("", V(T.U8, 1)), r"key has 0 bytes"),
    "a key of 300 bytes": (meta("k" * 300, V(T.U8, 1)), r"key has 300 bytes, 1 to 256"),
    "a key with a zero byte": (meta("general.na\0me", V(T.U8, 1)), r"not printable ASCII"),
    "a key beyond ASCII": (meta("general.ñame", V(T.U8, 1)), r"not printable ASCII"),
    "a key twice": (
        lambda: bytes(write([*METADATA, METADATA[2]], TENSORS).data),
        r"the key `general.name` appears twice",
    ),
    # values
    "value type 13": (lie("general.name:type", 13), r"`general.name` has type 13"),
    "value type 2^32-1": (lie("general.name:type", -1), r"`general.name` has type 4294967295"),
    "a string of 2^63 bytes": (
        lie("general.name:length", 1 << 63),
        r"`general.name` needs 9223372036854775808",
    ),
    "a string beyond the end": (
        lie("general.name:length", 5000),
        r"`general.name` needs 5000 bytes",
    ),
    "a string that is not UTF-8": (
        meta("general.name", V(T.STRING, b"\xff")),
        r"`general.name` is not UTF-8",
    ),
    "a truth of 2": (lie("tokenizer.ggml.add_bos_token", 2), r"byte 2 for a truth"),
    "truths of 7": (meta("x", A(T.BOOL, (1, 0, 7))), r"`x` has the byte 7 for a truth"),
    "an array of 2^62 numbers": (
        lie("tokenizer.ggml.scores:n", 1 << 62),
        r"array of 4611686018427387904 FLOAT32",
    ),
    "an array of 2^61 strings": (
        lie("tokenizer.ggml.tokens:n", 1 << 61),
        r"array of 2305843009213693952 STRING",
    ),
    "an array whose bytes overflow": (
        lie("tokenizer.ggml.scores:n", (1 << 62) + 1),
        r"FLOAT32, needs",
    ),
    "an array of unknown type": (
        lie("tokenizer.ggml.scores:element_type", 99),
        r"`tokenizer.ggml.scores` has type 99",
    ),
    "an array of arrays": (
        meta("x", A(T.ARRAY, (A(T.U8, (1,)), A(T.U8, (2,))))),
        r"`x` is an array of arrays",
    ),
    "a piece of 2^63 bytes": (
        lie("tokenizer.ggml.tokens[2]:length", 1 << 63),
        r"tokens`\[2\] needs 9223372036854775808",
    ),
    # alignment
    "alignment 0": (lie("general.alignment", 0), r"`general.alignment` is 0"),
    "alignment 3": (lie("general.alignment", 3), r"`general.alignment` is 3"),
    "alignment 48": (lie("general.alignment", 48), r"48, must be a power of two"),
    "alignment 8": (lie("general.alignment", 8), r"`general.alignment` is 8.* 32 to 65536"),
    "alignment 2^31": (lie("general.alignment", 1 << 31), r"2147483648.* 32 to 65536"),
    "alignment in words": (
        meta("general.alignment", V(T.STRING, "32")),
        r"is '32', must be an integer",
    ),
    # tensors
    "a tensor's name of 64 bytes": (
        tensors(replace(EMBEDDING, name="n" * 64), NORM),
        r"name has 64 bytes, 1 to 63",
    ),
    "a tensor's name of 2^40 bytes": (
        lie("token_embd.weight:name:length", 1 << 40),
        r"name has 1099511627776 bytes",
    ),
    "a tensor twice": (
        tensors(EMBEDDING, EMBEDDING),
        r"the tensor `token_embd.weight` appears twice",
    ),
    "no dimensions": (lie("token_embd.weight:n_dims", 0), r"has 0 dimensions"),
    "five dimensions": (lie("token_embd.weight:n_dims", 5), r"has 5 dimensions, must have 1 to 4"),
    "2^32-1 dimensions": (lie("token_embd.weight:n_dims", -1), r"has 4294967295 dimensions"),
    "a dimension of 0": (lie("token_embd.weight:shape[1]", 0), r"impossible shape \(32, 0\)"),
    "a dimension of -1": (lie("token_embd.weight:shape[1]", -1), r"impossible shape"),
    "dimensions whose product overflows": (
        tensors(replace(EMBEDDING, shape=(1 << 32, 1 << 31)), NORM),
        r"impossible shape \(4294967296, 2147483648\)",
    ),
    "dimensions whose product wraps to 0": (
        tensors(replace(EMBEDDING, shape=(1 << 32, 1 << 32)), NORM),
        r"impossible shape",
    ),
    "ggml type 4": (lie("token_embd.weight:ggml_type", 4), r"unknown ggml type 4\b"),
    "ggml type 43": (lie("token_embd.weight:ggml_type", 43), r"unknown ggml type 43"),
    "ggml type -1": (lie("token_embd.weight:ggml_type", -1), r"unknown ggml type 4294967295"),
    "half a block in a row": (
        lie("token_embd.weight:shape[0]", 48),
        r"48 elements, Q4_0 needs a multiple of 32",
    ),
    "an offset between the alignments": (
        lie("output_norm.weight:offset", 97),
        r"at 97, not a multiple of 32",
    ),
    "tensors that overlap": (
        lie("output_norm.weight:offset", 64),
        r"at 64 and overlaps .* ends at 96",
    ),
    "tensors on one place": (lie("output_norm.weight:offset", 0), r"at 0 and overlaps"),
    "a gap between tensors": (
        lie("output_norm.weight:offset", 128),
        r"at 128, after a gap: it must be at 96",
    ),
    "an offset of 2^63": (
        lie("output_norm.weight:offset", 1 << 63),
        r"at 9223372036854775808, after a gap",
    ),
    "an offset that wraps": (
        lie("output_norm.weight:offset", -32),
        r"at 18446744073709551584, after a gap",
    ),
    "a tensor beyond the end": (
        lie("output_norm.weight:shape[0]", 4096),
        r"16384 bytes would end at byte \d+, the file ends at",
    ),
    "the last weight cut off": (lambda: bytes(sound().data[:-1]), r"128 bytes would end at byte"),
    "no weights at all": (lambda: bytes(sound().data[: sound().header_size]), r"would end at byte"),
    # the model
    "no architecture": (missing("general.architecture"), r"`general.architecture` is missing"),
    "an architecture that is a number": (
        meta("general.architecture", V(T.U32, 1)),
        r"is 1, must be a string",
    ),
    "an architecture that is a path": (
        meta("general.architecture", V(T.STRING, "../x")),
        r"names no architecture",
    ),
    "an adapter": (meta("general.type", V(T.STRING, "adapter")), r"'adapter': this is not a model"),
    "a projector": (meta("general.type", V(T.STRING, "mmproj")), r"'mmproj': this is not a model"),
    "no block count": (missing("llama.block_count"), r"`llama.block_count` is missing"),
    "no blocks": (lie("llama.block_count", 0), r"`llama.block_count` is 0"),
    "513 blocks": (lie("llama.block_count", 513), r"`llama.block_count` is 513.*1 to 512"),
    "2^32-1 blocks": (lie("llama.block_count", -1), r"`llama.block_count` is 4294967295"),
    "a block count that is true": (
        meta("llama.block_count", V(T.BOOL, True)),
        r"is True, must be an integer",
    ),
    "a context of 0": (lie("llama.context_length", 0), r"`llama.context_length` is 0"),
    "no embedding": (lie("llama.embedding_length", 0), r"`llama.embedding_length` is 0"),
    "more predicted layers than layers": (
        meta("llama.nextn_predict_layers", V(T.U32, 2)),
        r"nextn_predict_layers` is 2",
    ),
    "1025 experts": (meta("llama.expert_count", V(T.U32, 1025)), r"expert_count` is 1025"),
    "more experts used than there are": (
        meta("llama.expert_used_count", V(T.U32, 2)),
        r"expert_used_count` is 2",
    ),
    "a layer that uses more experts than there are": (
        lambda: bytes(
            write(
                [
                    *METADATA,
                    ("llama.expert_count", V(T.U32, 2)),
                    ("llama.expert_used_count", A(T.U32, (1, 9))),
                ],
                TENSORS,
            ).data
        ),
        r"array of 2 UINT32, which does not fit 2 experts",
    ),
    "experts of which none is used": (
        meta("llama.expert_count", V(T.U32, 8)),
        r"expert_used_count` is 0, which does not fit 8 experts",
    ),
    "groups that do not divide the experts": (
        lambda: bytes(
            write(
                [
                    *METADATA,
                    ("llama.expert_count", V(T.U32, 8)),
                    ("llama.expert_used_count", V(T.U32, 2)),
                    ("llama.expert_group_count", V(T.U32, 3)),
                ],
                TENSORS,
            ).data
        ),
        r"expert_group_count` is 3, must divide 8 experts",
    ),
    "a norm that adds NaN": (
        meta("llama.attention.layer_norm_rms_epsilon", V(T.F32, float("nan"))),
        r"is nan, must be a number from 0 to 1",
    ),
    "a norm that adds a negative number": (
        meta("llama.attention.layer_norm_rms_epsilon", V(T.F32, -1.0)),
        r"is -1.0, must be a number from 0 to 1",
    ),
    "an unknown rope scaling": (
        meta("llama.rope.scaling.type", V(T.STRING, "su")),
        r"rope.scaling.type` is 'su'",
    ),
    "a name that is a number": (
        meta("general.name", V(T.U32, 1)),
        r"`general.name` is 1, must be a string",
    ),
    "a template that is an array": (
        meta("tokenizer.chat_template", strings("a")),
        r"array of 1 STRING, must be a string",
    ),
    "a shard beyond the last": (
        lambda: bytes(
            write(
                [*METADATA, ("split.no", V(T.U16, 2)), ("split.count", V(T.U16, 2))], TENSORS
            ).data
        ),
        r"`split.no` is 2, must be an integer from 0 to 1",
    ),
    # the vocabulary
    "tokens that are a string": (
        meta("tokenizer.ggml.tokens", V(T.STRING, "a")),
        r"is 'a', must be an array of STRING",
    ),
    "tokens that are bytes": (
        meta("tokenizer.ggml.tokens", A(T.U8, (1, 2, 3, 4))),
        r"array of 4 UINT8, must be an array of STRING",
    ),
    "no tokens": (meta("tokenizer.ggml.tokens", strings()), r"has 0 pieces"),
    "scores that are bytes": (
        meta("tokenizer.ggml.scores", A(T.U8, (0, 0, 0, 0))),
        r"array of 4 UINT8, must be an array of FLOAT32",
    ),
    "fewer scores than tokens": (
        meta("tokenizer.ggml.scores", A(T.F32, (0.0,))),
        r"has 1 values for 4 tokens",
    ),
    "token types that are bytes": (
        meta("tokenizer.ggml.token_type", A(T.U8, (1, 1, 1, 1))),
        r"array of 4 UINT8, must be an array of INT32",
    ),
    "fewer token types than tokens": (
        meta("tokenizer.ggml.token_type", A(T.I32, (1, 1))),
        r"has 2 values for 4 tokens",
    ),
    "merges that are numbers": (
        meta("tokenizer.ggml.merges", A(T.I32, (1,))),
        r"array of 1 INT32, must be an array of STRING",
    ),
    "a charsmap of words": (
        meta("tokenizer.ggml.precompiled_charsmap", strings("a")),
        r"array of 1 STRING, must be an array of UINT8 or INT8",
    ),
    "a byte piece <0x-1>": (
        meta("tokenizer.ggml.tokens", strings("a", "<0x0A>", "<0x-1>", "d")),
        r"tokens\[2\]` is b'<0x-1>', not a byte",
    ),
    "a byte type without a byte": (
        meta("tokenizer.ggml.token_type", A(T.I32, (6, 6, 1, 1))),
        r"tokens\[0\]` is b'<unk>', not a byte",
    ),
    "a piece twice": (
        meta("tokenizer.ggml.tokens", strings("a", "<0x0A>", "c", "a")),
        r"tokens\[3\]` is b'a' for the second time",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_refused_with_its_reason(tmp_path: Path, name: str) -> None:
    mutate, reason = MUTANTS[name]

    with pytest.raises(InvalidModelFile) as refusal:
        read_gguf(on_disk(tmp_path, mutate()))

    assert re.search(reason, refusal.value.message), refusal.value.message
    assert refusal.value.message.startswith("tiny.gguf")
