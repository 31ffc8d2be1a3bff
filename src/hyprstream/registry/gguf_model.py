"""What llama.cpp makes of a GGUF: the facts of a model, or why it must not be loaded. Knows keys and limits; no format.

Where llama.cpp would end the process (`GGML_ASSERT`) rather than refuse a file, the file is refused here.
"""

import re
from collections import Counter
from collections.abc import Sequence

from hyprstream.core.models import ModelFacts
from hyprstream.registry.ggml_types import quantization_name
from hyprstream.registry.gguf_format import (
    HINT,
    GGUFArray,
    Metadata,
    Reader,
    TensorInfo,
    ValueType,
    shown,
)

MAX_VOCABULARY = 1 << 19
MAX_LAYERS = 512
"""`LLAMA_MAX_LAYERS`"""
MAX_EXPERTS = 1024
"""`LLAMA_MAX_EXPERTS`"""

_BYTE_TOKEN = 6
_BYTE_PIECE = re.compile(rb"<0x[0-9A-Fa-f]{2}>")
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TOKENIZER_ARRAYS = {
    "tokenizer.ggml.tokens": (ValueType.STRING,),
    "tokenizer.ggml.scores": (ValueType.FLOAT32, ValueType.INT32),
    "tokenizer.ggml.token_type": (ValueType.INT32,),
    "tokenizer.ggml.merges": (ValueType.STRING,),
    "tokenizer.ggml.precompiled_charsmap": (ValueType.UINT8, ValueType.INT8),
}


def judge(metadata: Metadata, tensors: tuple[TensorInfo, ...]) -> ModelFacts:
    """What the model is, or why llama.cpp should not be given it."""
    kind = metadata.text("general.type") or "model"
    if kind != "model":
        hint = "load it together with its base model" if kind == "adapter" else HINT
        raise metadata.refusal("general.type", f"is {shown(kind)}: this is not a model", hint=hint)
    architecture = metadata.text("general.architecture")
    if architecture is None:
        raise metadata.refusal("general.architecture", "is missing")
    if not _ARCHITECTURE.fullmatch(architecture):
        raise metadata.refusal(
            "general.architecture", f"is {shown(architecture)}, which names no architecture"
        )
    n_layers = metadata.integer(f"{architecture}.block_count", 1, MAX_LAYERS)
    _check_hyperparameters(metadata, architecture, n_layers)
    return ModelFacts(
        architecture=architecture,
        name=metadata.text("general.name"),
        n_params=sum(tensor.n_elements for tensor in tensors),
        quantization=_quantization(metadata, tensors),
        context_length=metadata.integer(f"{architecture}.context_length", 1, (1 << 31) - 1),
        embedding_length=metadata.integer(f"{architecture}.embedding_length", 1, 1 << 20),
        n_layers=n_layers,
        chat_template=metadata.text("tokenizer.chat_template"),
        license=metadata.text("general.license"),
        vocab_size=_vocab_size(metadata, architecture),
    )


def _check_hyperparameters(metadata: Metadata, architecture: str, n_layers: int) -> None:
    """Refuse what llama.cpp asserts of a model's numbers when it loads it or computes its first norm."""
    metadata.integer(f"{architecture}.nextn_predict_layers", 0, n_layers, default=0)
    _check_experts(metadata, architecture)
    for norm in ("layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon"):
        _check_epsilon(metadata, f"{architecture}.attention.{norm}")
    scaling_key = f"{architecture}.rope.scaling.type"
    scaling = metadata.text(scaling_key)
    if scaling not in (None, "none", "linear", "yarn", "longrope"):
        raise metadata.refusal(scaling_key, f"is {shown(scaling)}, which llama.cpp does not know")


def _check_experts(metadata: Metadata, architecture: str) -> None:
    n_experts = metadata.integer(f"{architecture}.expert_count", 0, MAX_EXPERTS, default=0)
    used_key = f"{architecture}.expert_used_count"
    used = metadata.values.get(used_key, 0)
    counts = used.values if isinstance(used, GGUFArray) else (used,)  # an array has one per layer
    allowed = range(n_experts + 1)
    if not counts or any(n not in allowed for n in counts) or (n_experts and not any(counts)):
        raise metadata.refusal(
            used_key, f"is {shown(used)}, which does not fit {n_experts} experts"
        )
    groups_key = f"{architecture}.expert_group_count"
    n_groups = metadata.integer(groups_key, 0, max(0, n_experts - 1), default=0)
    if n_groups > 1:
        if n_experts % n_groups:
            raise metadata.refusal(groups_key, f"is {n_groups}, must divide {n_experts} experts")
        metadata.integer(f"{architecture}.expert_group_used_count", 1, n_groups - 1)


def _check_epsilon(metadata: Metadata, key: str) -> None:
    value = metadata.values.get(key, 0.0)
    if not isinstance(value, float) or not 0 <= value <= 1:  # not NaN, in particular
        raise metadata.refusal(key, f"is {shown(value)}, must be a number from 0 to 1")


def _quantization(metadata: Metadata, tensors: tuple[TensorInfo, ...]) -> str:
    key = "general.file_type"
    file_type = metadata.integer(key, 0, 0xFFFF) if key in metadata.values else None
    n_elements = Counter[str]()
    for tensor in tensors:
        n_elements[tensor.ggml_type] += tensor.n_elements
    return quantization_name(file_type, n_elements)


def _vocab_size(metadata: Metadata, architecture: str) -> int | None:
    tokens = metadata.values.get("tokenizer.ggml.tokens")
    if isinstance(tokens, GGUFArray):
        return tokens.n
    key = f"{architecture}.vocab_size"
    return metadata.integer(key, 1, MAX_VOCABULARY) if key in metadata.values else None


def check_vocabulary(reader: Reader, metadata: Metadata) -> None:
    """Refuse arrays whose types or lengths do not fit each other, and pieces that llama.cpp trips over."""
    arrays = {key: metadata.array(key, types) for key, types in _TOKENIZER_ARRAYS.items()}
    key = "tokenizer.ggml.tokens"
    tokens = arrays[key]
    if tokens is None:
        return
    if not 1 <= tokens.n <= MAX_VOCABULARY:
        raise metadata.refusal(key, f"has {tokens.n} pieces, 1 to {MAX_VOCABULARY} are allowed")
    for other_key in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
        other = arrays[other_key]
        if other is not None and other.n != tokens.n:
            raise metadata.refusal(other_key, f"has {other.n} values for {tokens.n} tokens")
    types: Sequence[int] = bytes(tokens.n)  # all of no type
    types_key = "tokenizer.ggml.token_type"
    if types_key in metadata.values:
        reader.seek(metadata.offsets[types_key])
        types = memoryview(reader.take(4 * tokens.n, f"`{types_key}`")).cast("i")
    reader.seek(metadata.offsets[key])
    _check_pieces(reader, key, types)


def _check_pieces(reader: Reader, key: str, types: Sequence[int]) -> None:
    # Hashes, so that the memory does not depend on the strings. A file with 2¹⁸ different pieces would be refused by
    # accident once in 10⁸ times.
    seen: set[int] = set()
    for index, piece in enumerate(reader.strings(len(types), f"`{key}`")):
        is_byte = types[index] == _BYTE_TOKEN or (piece[:3] == b"<0x" and piece[5:] == b">")
        if is_byte and not _BYTE_PIECE.fullmatch(piece):
            raise reader.refusal(f"`{key}[{index}]` is {piece[:60]!r}, not a byte such as <0x0A>")
        # llama.cpp asserts that the pieces differ, after it has named the empty ones.
        seen.add(hash(piece or b"[EMPTY_%d]" % index))
        if len(seen) <= index:
            raise reader.refusal(f"`{key}[{index}]` is {piece[:60]!r} for the second time")
