"""Who asks, to do what, on what. Values only; `policy` decides and `services` ask it."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request: `local:alice` (a shell user), `token:api-key`, `anonymous`."""

    subject: str

    @property
    def is_anonymous(self) -> bool:
        return self == ANONYMOUS

    def __str__(self) -> str:
        return self.subject


ANONYMOUS = Principal("anonymous")


class Action(StrEnum):
    """What a principal may do to a resource."""

    INFER = "infer"
    QUERY = "query"
    WRITE = "write"
    MANAGE = "manage"


@dataclass(frozen=True, slots=True)
class Resource:
    """What an action is done to: `registry`, `model:smollm2`, `service:openai`."""

    kind: str
    name: str | None = None

    def __str__(self) -> str:
        return self.kind if self.name is None else f"{self.kind}:{self.name}"


REGISTRY = Resource("registry")


def model_resource(ref: object) -> Resource:
    """The resource a model reference names."""
    return Resource("model", str(ref))
