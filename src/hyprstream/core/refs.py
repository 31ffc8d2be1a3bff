"""Names of models. Knows the grammar; knows nothing of what exists."""

import re
from dataclasses import dataclass

from hyprstream.core.errors import Invalid

DEFAULT_REF = "main"
MAX_NAME_LENGTH = 64

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


@dataclass(frozen=True, slots=True, order=True)
class ModelRef:
    """Names one version of one model: `smollm2` (its `main`), `gemma3:270m`, `qwen3:lora/medical`."""

    name: str
    ref: str = DEFAULT_REF

    @classmethod
    def parse(cls, text: str) -> "ModelRef":
        """Read `name[:ref]`.

        Raises:
            Invalid: the text does not follow the grammar.
        """
        name, colon, ref = text.partition(":")
        if len(text) > 2 * MAX_NAME_LENGTH or not _is_name(name) or (colon and not _is_ref(ref)):
            raise Invalid(
                f"{text[:80]!r} is not a model reference",
                param="model",
                hint="write name or name:ref with letters, digits, '.', '_' and '-'",
            )
        return cls(name, ref or DEFAULT_REF)

    def __str__(self) -> str:
        return self.name if self.ref == DEFAULT_REF else f"{self.name}:{self.ref}"


def _is_name(text: str) -> bool:
    return len(text) <= MAX_NAME_LENGTH and bool(_NAME.fullmatch(text)) and _is_path_safe(text)


def _is_ref(text: str) -> bool:
    return len(text) <= MAX_NAME_LENGTH and bool(_REF.fullmatch(text)) and _is_path_safe(text)


def _is_path_safe(text: str) -> bool:
    # Names become directory names: what git and file systems treat specially stays out.
    return ".." not in text and not any(part.endswith((".", ".lock")) for part in text.split("/"))
