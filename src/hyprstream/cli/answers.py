"""Where answers come from: the engine in this process, or a server's OpenAI API. Knows both; knows no terminal."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyprstream.core.chat import (
    ChatEvent,
    ChatRequest,
    ChatStream,
    ChoiceFinished,
    ContentDelta,
    RequestFinished,
)
from hyprstream.core.errors import (
    BackendError,
    Denied,
    HyprstreamError,
    Invalid,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from hyprstream.core.generation import FinishReason, Timings, Usage
from hyprstream.core.principal import os_principal
from hyprstream.core.refs import ModelRef

if TYPE_CHECKING:
    import httpx

    from hyprstream.settings import Settings

Ask = Callable[[ChatRequest], AbstractAsyncContextManager[ChatStream]]
"""Continues a conversation; leaving the block stops the answer."""

OpenAsk = Callable[[], AbstractAsyncContextManager[Ask]]
"""Loads a model, or connects to a server; leaving the block gives it up."""

ERRORS: dict[int, type[HyprstreamError]] = {
    400: Invalid,
    401: Unauthenticated,
    403: Denied,
    404: NotFound,
    413: TooLarge,
    422: Invalid,
    429: Unavailable,
    502: Unavailable,
    503: Unavailable,
}
"""What a server's status means; any other is a BackendError."""

SILENCE_SECONDS = 600.0
"""Longest time without a byte from a server."""


@asynccontextmanager
async def local(settings: "Settings", ref: ModelRef, files: list[Path]) -> AsyncGenerator[Ask]:
    """Answers of the model `ref`, loaded into this process; `files` are GGUF files to offer beside the stored models."""
    from hyprstream.bootstrap import open_services

    async with open_services(settings, extra=files) as services:
        await services.pool.load(ref)
        yield partial(services.chat.chat, os_principal())


@asynccontextmanager
async def remote(url: str, api_key: str | None) -> AsyncGenerator[Ask]:
    """Answers of the server at `url`, with or without its trailing `/v1`."""
    import httpx

    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    base = url.rstrip("/").removesuffix("/v1")
    timeout = httpx.Timeout(SILENCE_SECONDS, connect=5.0)
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=timeout) as client:
        yield partial(_ask_server, client)


@asynccontextmanager
async def _ask_server(
    client: "httpx.AsyncClient", request: ChatRequest
) -> AsyncGenerator[ChatStream]:
    import httpx

    try:
        async with client.stream("POST", "/v1/chat/completions", json=_body(request)) as response:
            if response.is_error:
                raise _refusal(response.status_code, await response.aread())
            async with aclosing(_events(response)) as events:
                yield events
    except httpx.TransportError as error:
        raise Unavailable(
            f"the server at {client.base_url} does not answer: {error or type(error).__name__}",
            hint="hyprstream server",
        ) from None
    except httpx.InvalidURL as error:
        raise Invalid(f"{client.base_url} is not a URL: {error}", param="url") from None


async def _events(response: "httpx.Response") -> AsyncGenerator[ChatEvent]:
    reason, usage = FinishReason.STOP, Usage()
    async for line in response.aiter_lines():
        data = line.removeprefix("data:").strip()
        if data == line.strip() or data == "[DONE]":
            continue
        chunk: dict[str, Any] = json.loads(data)
        if "error" in chunk:
            raise BackendError(str(chunk["error"].get("message", chunk["error"])))
        for choice in chunk.get("choices", ()):
            if text := choice["delta"].get("content"):
                yield ContentDelta(choice["index"], text)
            reason = FinishReason(choice.get("finish_reason") or reason)
        if counts := chunk.get("usage"):
            usage = Usage(counts["prompt_tokens"], counts["completion_tokens"])
    yield ChoiceFinished(0, reason, usage, Timings())
    yield RequestFinished(usage, Timings())


def _body(request: ChatRequest) -> dict[str, object]:
    params, sampling = request.params, request.params.sampling
    body: dict[str, object] = {
        "model": str(request.model),
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repeat_penalty,
    }
    optional = {
        "seed": sampling.seed,
        "max_completion_tokens": params.max_tokens,
        "stop": list(params.stop) or None,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def _refusal(status: int, body: bytes) -> HyprstreamError:
    try:
        message = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"the server answered {status}"
    return ERRORS.get(status, BackendError)(message)
