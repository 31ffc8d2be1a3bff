"""Every error a caller can cause or meet. Knows names and numbers; knows no HTTP status, exit code or library.

HyprstreamError
├── Invalid                  the request cannot be honoured as written
│   ├── ContextOverflow      prompt and window do not fit, with both numbers
│   └── InvalidModelFile     a file is not a sound GGUF
├── Unauthenticated          no key where one is needed, or a wrong one
├── Denied                   the policy says no
├── NotFound                 no such model, session, file
├── Conflict                 the name is taken, the thing is in use
├── TooLarge                 more bytes than the server accepts
├── QueueFull                too many requests wait already; says when to come back
├── RateLimited              this principal asks more than it may; says when to come back
├── Unavailable              loading, or shutting down
├── DeadlineExceeded         the configured generation time is over
├── SourceError              a model source cannot be reached or gave the wrong bytes
├── Corrupt                  something of ours on disk is damaged; says what, and how to repair it
└── BackendError             the engine failed; our fault, not the caller's
"""


class HyprstreamError(Exception):
    """Base of everything raised on purpose. `hint` is the way out, shown under the message."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Invalid(HyprstreamError):
    """The request cannot be honoured as written; `param` names the field at fault."""

    def __init__(self, message: str, *, param: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.param = param


class ContextOverflow(Invalid):
    """Prompt and answer do not fit the context window. Counts are in tokens; `needed` may be a lower bound."""

    def __init__(
        self, *, needed: int, available: int, is_bound: bool = False, param: str | None = None
    ) -> None:
        super().__init__(
            f"the prompt has {'at least ' if is_bound else ''}{needed} tokens, which leaves no room"
            f" for an answer in a context window of {available}",
            param=param,
            hint="shorten the prompt or load the model with a larger context",
        )
        self.needed = needed
        self.available = available


class InvalidModelFile(Invalid):
    """A file is not a GGUF that llama.cpp may be given; the message says at which byte and why."""


class Unauthenticated(HyprstreamError):
    """No credential where one is needed, or one nobody issued."""


class Denied(HyprstreamError):
    """The policy does not allow this principal this action on this resource."""


class NotFound(HyprstreamError):
    """No such thing. `kind` says what was looked for: `model`, `file`, ..."""

    def __init__(self, message: str, *, kind: str = "model", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


class Conflict(HyprstreamError):
    """The name is taken already, or the thing is in use."""


class TooLarge(HyprstreamError):
    """More bytes than the server accepts in one request."""


class QueueFull(HyprstreamError):
    """Every slot is busy and the waiting queue is full. `retry_after` is in seconds, at least 1."""

    def __init__(self, *, waiting: int, limit: int, retry_after: int = 1) -> None:
        super().__init__(
            f"no room for another request: {waiting} of {limit} places are taken",
            hint=f"retry in {max(1, retry_after)} s",
        )
        self.waiting = waiting
        self.limit = limit
        self.retry_after = max(1, retry_after)


class RateLimited(HyprstreamError):
    """A principal has used up what it may ask of a `limit` (`requests_per_minute`, ...). `retry_after` is in seconds, at least 1."""

    def __init__(self, message: str, *, limit: str, retry_after: int = 1) -> None:
        super().__init__(message, hint=f"retry in {max(1, retry_after)} s")
        self.limit = limit
        self.retry_after = max(1, retry_after)


class Unavailable(HyprstreamError):
    """The server is loading or shutting down. `retry_after` is in seconds, at least 1."""

    def __init__(self, message: str, *, retry_after: int = 1, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = max(1, retry_after)


class DeadlineExceeded(HyprstreamError):
    """The configured generation time is over."""


class SourceError(HyprstreamError):
    """A model source cannot be reached, or gave bytes with the wrong digest."""


class Corrupt(HyprstreamError):
    """Something of ours on disk is damaged. The hint says how to repair it."""


class BackendError(HyprstreamError):
    """The engine failed. The request is lost; the server is not."""
