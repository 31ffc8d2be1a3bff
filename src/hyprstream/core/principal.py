"""Who asks, to do what, on what. Values only; `policy` decides and `services` ask it."""

import os
import pwd
import re
from dataclasses import dataclass, field
from enum import StrEnum

from hyprstream.core.errors import Invalid
from hyprstream.core.refs import ModelRef


class Door(StrEnum):
    """Where a request came in; a policy may tell them apart (its `dom`)."""

    CLI = "cli"
    HTTP = "http"
    WEBSOCKET = "ws"


class Action(StrEnum):
    """What a principal may do to a resource."""

    INFER = "infer"
    TRAIN = "train"
    QUERY = "query"
    WRITE = "write"
    SERVE = "serve"
    MANAGE = "manage"
    CONTEXT = "context"
    EXECUTE = "execute"
    SUBSCRIBE = "subscribe"
    PUBLISH = "publish"


@dataclass(frozen=True, slots=True)
class Resource:
    """What an action is done to: `registry`, `registry:<id>`, `model:smollm2:main`, `session:<id>`, `policy`."""

    kind: str
    name: str | None = None

    def __str__(self) -> str:
        return self.kind if self.name is None else f"{self.kind}:{self.name}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy answers, and why."""

    is_allowed: bool
    reason: str
    """The rule that decided as it stands in the policy, `no rule allows it`, `outside the token's scopes`, ..."""
    line: int | None = None
    """That rule's line in the policy's text, from 1."""


REGISTRY = Resource("registry")
POLICY = Resource("policy")


def model_resource(ref: ModelRef) -> Resource:
    """The resource a model reference names, always with its version: `model:smollm2:main`, `model:smollm2:sha256:…`."""
    return Resource("model", f"{ref.name}:{ref.ref}")


def covers(pattern: str, text: str) -> bool:
    """Whether a pattern of a rule or scope covers a subject or resource.

    `*` covers everything, `model:qwen*` what begins so, and a name covers itself and what is below it: `model:qwen3` covers
    `model:qwen3:main` and not `model:qwen30`.
    """
    if pattern.endswith("*"):
        return text.startswith(pattern[:-1])
    return text == pattern or text.startswith(f"{pattern}:")


_SCOPE = re.compile(r"[A-Za-z0-9*@._/:-]+")


@dataclass(frozen=True, slots=True)
class Scope:
    """A limit a token carries: at most these actions on these resources. It grants nothing; the policy does."""

    pattern: str
    """Of resources, as `covers` reads it."""
    action: Action | None = None
    """None is every action."""

    @classmethod
    def parse(cls, text: str) -> "Scope":
        """Read `resource:identifier` (`model:*`), or with the action first `infer:model:*`.

        Raises:
            Invalid: the text follows neither form.
        """
        if len(text) > 256 or not _SCOPE.fullmatch(text):
            raise Invalid(
                f"{text[:80]!r} is not a scope",
                param="scope",
                hint="write a resource as model:* or an action and a resource as infer:model:*",
            )
        head, colon, rest = text.partition(":")
        if colon and head in set(Action):
            return cls(rest, Action(head))
        return cls(text)

    def allows(self, action: Action, resource: Resource) -> bool:
        """Whether this scope reaches as far as doing `action` to `resource`."""
        return self.action in (None, action) and covers(self.pattern, str(resource))

    def __str__(self) -> str:
        return self.pattern if self.action is None else f"{self.action}:{self.pattern}"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request: `local:alice` (a user of this machine), `token:alice`, `peer:node-7`, `anonymous`."""

    subject: str
    door: Door = Door.HTTP
    scopes: tuple[Scope, ...] | None = None
    """What the presented token is limited to; None is no limit beyond the policy's."""
    credential: str | None = field(default=None, compare=False)
    """Id of the presented token, for the audit log. Never the token."""

    @property
    def is_anonymous(self) -> bool:
        return self.subject == "anonymous"

    def __str__(self) -> str:
        return self.subject


ANONYMOUS = Principal("anonymous")


def os_principal() -> Principal:
    """The user who runs this process, at the command line."""
    return Principal(local_subject(os.getuid()), Door.CLI)


def local_subject(uid: int) -> str:
    """A user of this machine as the policy names it: by name, or by number where there is none, as in a container."""
    try:
        return f"local:{pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"local:{uid}"
