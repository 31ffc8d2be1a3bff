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
    """One model in the store."""

    ref: ModelRef
    path: str
    """Absolute path of the GGUF file."""
    size_bytes: int
    sha256: str
    source: str
    """Where it came from, as the user wrote it: `smollm2`, `hf:user/repo:file`, a path, a URL."""
    created: int
    """Seconds since the epoch when it was stored."""
    facts: ModelFacts
