"""OpenAI's routes. Each asks who is calling, decodes, calls one use case and encodes. Knows no engine."""

import asyncio
import time
from uuid import uuid4

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from hyprstream.core.errors import Invalid, NotFound
from hyprstream.core.refs import ModelRef
from hyprstream.server.answer import Answer
from hyprstream.server.auth import authenticate
from hyprstream.server.errors import json_response
from hyprstream.server.openai.decode import decode_chat, decode_completion, parse, wants_usage
from hyprstream.server.openai.encode import ChatEncoder, CompletionEncoder, Head
from hyprstream.server.openai.encode_model import encode_model
from hyprstream.server.openai.schemas import ChatCompletionBody, CompletionBody
from hyprstream.server.options import ServerOptions
from hyprstream.services.services import Services

GENERATION_PATHS = ("/chat/completions", "/completions")


def openai_routes(services: Services, options: ServerOptions, *, version: str) -> APIRouter:
    """The routes, to be mounted under `/v1`."""
    api = APIRouter(tags=["OpenAI"])

    @api.post("/chat/completions", openapi_extra=_takes(ChatCompletionBody))
    async def create_chat_completion(request: Request) -> Response:
        """Continue a conversation."""
        principal = authenticate(request, services.access)
        body = parse(ChatCompletionBody, await request.body())
        chat = decode_chat(body, options.default_model)
        encoder = ChatEncoder(
            _head("chatcmpl", chat.model, version),
            n_choices=chat.params.n,
            with_usage=wants_usage(body),
        )
        return Answer(
            services.chat.chat(principal, chat),
            encoder,
            is_streamed=bool(body.stream),
            options=options,
        )

    @api.post("/completions", openapi_extra=_takes(CompletionBody))
    async def create_completion(request: Request) -> Response:
        """Continue raw prompts."""
        principal = authenticate(request, services.access)
        body = parse(CompletionBody, await request.body())
        completion = decode_completion(body, options.default_model)
        encoder = CompletionEncoder(
            _head("cmpl", completion.model, version),
            n_choices=len(completion.prompts) * completion.params.n,
            with_usage=wants_usage(body),
        )
        return Answer(
            services.chat.complete(principal, completion),
            encoder,
            is_streamed=bool(body.stream),
            options=options,
        )

    @api.head("/models", include_in_schema=False)
    @api.get("/models")
    async def list_models(request: Request) -> Response:
        """The stored models."""
        principal = authenticate(request, services.access)
        cards = await asyncio.to_thread(services.models.list, principal)
        return json_response(
            {"object": "list", "data": [encode_model(card, time.time()) for card in cards]}
        )

    @api.head("/models/{model:path}", include_in_schema=False)
    @api.get("/models/{model:path}")
    async def retrieve_model(request: Request, model: str) -> Response:
        """One stored model."""
        principal = authenticate(request, services.access)
        card = await asyncio.to_thread(services.models.get, principal, _existing(model))
        return json_response(encode_model(card, time.time()))

    return api


def _takes(body: type[BaseModel]) -> dict[str, object]:
    # The bodies are read by the routes themselves, so that a wrong one is answered in OpenAI's shape and parsed only once.
    schema = {"$ref": f"#/components/schemas/{body.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _head(prefix: str, model: ModelRef, version: str) -> Head:
    return Head(
        id=f"{prefix}-{uuid4().hex}",
        created=int(time.time()),
        model=str(model),
        fingerprint=f"hyprstream-{version}",
    )


def _existing(model: str) -> ModelRef:
    # What cannot be a name does not exist either.
    try:
        return ModelRef.parse(model)
    except Invalid as error:
        raise NotFound(error.message, hint=error.hint) from None
