"""What is known of a stored model without loading it. Values only."""

from dataclasses import dataclass

from hyprstream.core.refs import ModelRef


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a GGUF file says of itself (keys of the GGUF specification, `general.*` and `<architecture>.*`)."""

    architecture: str
    name: str | None
    n_params: int
    """Sum of the elements of all tensors."""
    quantization: str
    """As people write it: `Q4_1`, `Q4_K_M`, `F16`."""
    context_length: int
    """Tokens the model was trained on."""
    embedding_length: int
    n_layers: int
    chat_template: str | None
    license: str | None
    vocab_size: int | None


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One version of one model: what a reference means. It never changes; a branch that moves means another one."""

    ref: ModelRef
    """`name:branch`, or whatever reference was resolved."""
    path: str
    """Absolute path of the GGUF file (the first shard's)."""
    size_bytes: int
    """Of the weights."""
    sha256: str
    """Of the weights."""
    source: str
    """Where it came from, as the user wrote it: `smollm2`, `hf:user/repo:file`, a path, a URL."""
    created: int
    """Seconds since the epoch when this version was committed."""
    facts: ModelFacts
    id: str = ""
    """The model's UUID; empty for a file that is in no registry."""
    commit: str = ""
    """Commit id; empty for a file that is in no registry."""
