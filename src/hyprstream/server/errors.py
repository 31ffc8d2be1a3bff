"""The HTTP shape of every error. Knows the error tree and OpenAI's error object; knows no routes.

The object is that of OpenAI's API reference: `{"error": {"message", "type", "param", "code"}}`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType

import orjson
from starlette.responses import Response
from starlette.types import Scope

from hyprstream.core.errors import (
    BackendError,
    Conflict,
    ContextOverflow,
    Corrupt,
    DeadlineExceeded,
    Denied,
    HyprstreamError,
    Invalid,
    InvalidModelFile,
    NotFound,
    QueueFull,
    RateLimited,
    SourceError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

CLIENT_GONE = 499
"""Logged for a request whose client left before it was answered; nobody receives it."""


class BodyTooSlow(HyprstreamError):
    """The request body did not arrive in time."""


class UnsupportedEncoding(HyprstreamError):
    """The request body is compressed."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How one class of errors looks from outside."""

    status: int
    type: str
    code: str | None = None


SHAPES: Mapping[type[HyprstreamError], Shape] = MappingProxyType(
    {
        HyprstreamError: Shape(500, "server_error", "internal_error"),
        Invalid: Shape(400, "invalid_request_error"),
        ContextOverflow: Shape(400, "invalid_request_error", "context_length_exceeded"),
        InvalidModelFile: Shape(400, "invalid_request_error", "invalid_model_file"),
        Unauthenticated: Shape(401, "authentication_error", "invalid_api_key"),
        Denied: Shape(403, "permission_error", "permission_denied"),
        NotFound: Shape(404, "not_found_error", "not_found"),
        BodyTooSlow: Shape(408, "timeout_error", "request_timeout"),
        Conflict: Shape(409, "invalid_request_error", "conflict"),
        TooLarge: Shape(413, "invalid_request_error", "request_too_large"),
        UnsupportedEncoding: Shape(415, "invalid_request_error", "unsupported_media_type"),
        QueueFull: Shape(429, "rate_limit_error", "queue_full"),
        RateLimited: Shape(429, "rate_limit_error", "rate_limit_exceeded"),
        BackendError: Shape(500, "server_error", "engine_failed"),
        Corrupt: Shape(500, "server_error", "data_damaged"),
        SourceError: Shape(502, "server_error", "source_unreachable"),
        Unavailable: Shape(503, "unavailable_error", "unavailable"),
        DeadlineExceeded: Shape(504, "timeout_error", "deadline_exceeded"),
    }
)


def shape_of(error: Exception) -> Shape:
    """The row of `error`'s class, or of its nearest ancestor that has one. What is not ours is an internal error."""
    return next((SHAPES[c] for c in type(error).__mro__ if c in SHAPES), SHAPES[HyprstreamError])


def error_body(error: Exception, scope: Scope) -> dict[str, object]:
    """OpenAI's error object. Of a failure of ours it tells only the request id: its message may name addresses."""
    shape = shape_of(error)
    inner: dict[str, object] = {
        "message": _message(error, shape, request_id(scope)),
        "type": shape.type,
        "param": error.param if isinstance(error, Invalid) else None,
        "code": _code(error, shape),
    }
    if isinstance(error, ContextOverflow):
        # llama-server's names, which its clients read.
        inner |= {"n_prompt_tokens": error.needed, "n_ctx": error.available}
    return {"error": inner}


def error_response(error: Exception, scope: Scope) -> Response:
    """The whole answer to a request that failed before anything was sent."""
    return json_response(error_body(error, scope), shape_of(error).status, _headers(error))


def status_response(status: int, scope: Scope, headers: Mapping[str, str] | None) -> Response:
    """The answer to a request that no route takes: 404, 405."""
    phrase = HTTPStatus(status).phrase.lower()
    error = {
        "message": f"{scope['method']} is not allowed here"
        if status == HTTPStatus.METHOD_NOT_ALLOWED
        else f"the request does not match any route: {phrase}",
        "type": "not_found_error" if status == HTTPStatus.NOT_FOUND else "invalid_request_error",
        "param": None,
        "code": phrase.replace(" ", "_"),
    }
    return json_response({"error": error}, status, headers)


def json_response(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


def request_id(scope: Scope) -> str:
    """The id that `middleware.RequestId` gave this request."""
    return scope["state"]["request_id"]


def _message(error: Exception, shape: Shape, request_id: str) -> str:
    if shape.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"the server failed to answer; its log has the reason under request id {request_id}"
    assert isinstance(error, HyprstreamError), "a foreign error is an internal one"
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _code(error: Exception, shape: Shape) -> str | None:
    return f"{error.kind}_not_found" if isinstance(error, NotFound) else shape.code


def _headers(error: Exception) -> dict[str, str]:
    match error:
        case QueueFull() | RateLimited() | Unavailable():
            return {"retry-after": str(error.retry_after)}
        case Unauthenticated():
            return {"www-authenticate": "Bearer"}
        case DeadlineExceeded():
            # Clients repeat what ends in a 5xx, and this would only take as long again.
            return {"x-should-retry": "false"}
        case _:
            return {}
