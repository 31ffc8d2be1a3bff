"""A stored model in OpenAI's shape. Pure: a card goes in, a value that JSON can hold comes out.

The shape is that of OpenAI's API reference, "the model object", with two additions: `status`, which clients of llama-server read,
and `meta`.
"""

from hyprstream.server.openai.encode import Json
from hyprstream.services.models import ModelCard, Stored

_AGES = (("d", 86400), ("h", 3600), ("m", 60))


def encode_model(card: ModelCard, now: float) -> Json:
    """The model object. `now` is in seconds since the epoch."""
    model = card.model
    return {
        "id": model.ref.full,
        "object": "model",
        "created": model.created,
        "owned_by": _owned_by(card.stored, now) + (" cached" if card.is_loaded else ""),
        "status": {"value": "loaded" if card.is_loaded else "unloaded"},
        "meta": {
            "architecture": model.facts.architecture,
            "quantization": model.facts.quantization,
            "n_ctx": card.n_ctx,
            "n_ctx_train": model.facts.context_length,
            "n_params": model.facts.n_params,
            "size": model.size_bytes,
        },
    }


def _owned_by(stored: Stored | None, now: float) -> str:
    """`system driver:reflink, saved:2.3GB, age:2h`: how files come into the worktree, what sharing saves, when it was made."""
    if stored is None:
        return "system"
    age = max(0, int(now) - stored.created)
    return f"system driver:{stored.driver}, saved:{_size(stored.shared_bytes)}, age:{_age(age)}"


def _size(n_bytes: int) -> str:
    """`2.3GB`, `98.4MB`, `512B`."""
    value, prefixes = float(n_bytes), ["", "k", "M", "G", "T"]
    while value >= 999.95 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop(0)
    return f"{value:.1f}{prefixes[0]}B" if prefixes[0] else f"{n_bytes}B"


def _age(seconds: int) -> str:
    """`3d`, `2h`, `30m`, `5s`: the largest unit that fits."""
    for unit, length in _AGES:
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
