"""Names of models. Knows the grammar; knows nothing of what exists.

    reference := (name | uuid) [":" version] | (name | uuid) "@sha256:" digest

A version is a branch (which may hold `/`), a tag or a commit of at least six hexadecimal digits; without one it is `main`.
"""

import re
from dataclasses import dataclass

from hyprstream.core.errors import Invalid

DEFAULT_REF = "main"
MAX_NAME_LENGTH = 64
MAX_REF_LENGTH = 128

_DEVICES = frozenset({"con", "prn", "aux", "nul"})
"""Names that are no files on some systems, whatever follows their first dot."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_COMMIT = re.compile(r"[0-9a-f]{6,40}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, order=True)
class ModelRef:
    """Names one version of one model: `smollm2` (its `main`), `qwen3:lora/medical`, `qwen3:4fda389`, `qwen3@sha256:…`."""

    name: str
    """The model's name, or its UUID."""
    ref: str = DEFAULT_REF
    """A branch, a tag, a commit or its beginning, or `sha256:` and the digest of the weights."""

    @classmethod
    def parse(cls, text: str) -> "ModelRef":
        """Read a reference.

        Raises:
            Invalid: the text does not follow the grammar.
        """
        name, at, digest = text.partition("@")
        name, colon, ref = name.partition(":")
        is_ref = (
            bool(_DIGEST.fullmatch(digest)) and not colon if at else not colon or is_version(ref)
        )
        if not (is_model_name(name) or _UUID.fullmatch(name)) or not is_ref:
            raise Invalid(
                f"{text[:80]!r} is not a model reference",
                param="model",
                hint="write name, name:version or name@sha256:DIGEST with letters, digits, '.', '_' and '-'",
            )
        return cls(name, digest or ref or DEFAULT_REF)

    @property
    def is_digest(self) -> bool:
        """Whether it names the weights themselves."""
        return self.ref.startswith("sha256:")

    @property
    def is_uuid(self) -> bool:
        """Whether the model is named by its UUID."""
        return _UUID.fullmatch(self.name) is not None

    @property
    def may_be_commit(self) -> bool:
        """Whether the version could be the beginning of a commit's id."""
        return _COMMIT.fullmatch(self.ref) is not None

    @property
    def full(self) -> str:
        """The reference with its version written out, `smollm2:main`."""
        return f"{self.name}@{self.ref}" if self.is_digest else f"{self.name}:{self.ref}"

    def __str__(self) -> str:
        return self.name if self.ref == DEFAULT_REF else self.full


def is_model_name(text: str) -> bool:
    """Whether a model can be called this: a directory's name everywhere, and nothing a reference reads differently."""
    return (
        len(text) <= MAX_NAME_LENGTH
        and bool(_NAME.fullmatch(text))
        and _is_path_safe(text)
        and not _UUID.fullmatch(text)
        and text.lower().partition(".")[0] not in _DEVICES
    )


def is_version(text: str) -> bool:
    """Whether a branch or tag can be called this, or a commit is."""
    return (
        len(text) <= MAX_REF_LENGTH
        and bool(_REF.fullmatch(text))
        and _is_path_safe(text)
        and not text.endswith("HEAD")  # git keeps those for itself
    )


def _is_path_safe(text: str) -> bool:
    # Names become directory names: what git and file systems treat specially stays out.
    return ".." not in text and not any(
        part.endswith((".", ".lock", ".git")) for part in text.split("/")
    )
