"""Puts the HTTP application together: routes inside, what surrounds every request outside. Knows no engine and no settings."""

from importlib.metadata import version as installed_version
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp

from hyprstream.core.errors import HyprstreamError
from hyprstream.server.errors import CLIENT_GONE, error_response, status_response
from hyprstream.server.middleware import (
    AccessLog,
    BodyLimit,
    Cors,
    Gate,
    InFlightLimit,
    RequestId,
)
from hyprstream.server.openai.routes import GENERATION_PATHS, openai_routes
from hyprstream.server.openai.schemas import ChatCompletionBody, CompletionBody
from hyprstream.server.options import ServerOptions
from hyprstream.server.origins import HostRule, OriginRule
from hyprstream.server.status import Preload, status_routes
from hyprstream.services.services import Services

PREFIXES = ("/v1", "/oai/v1")
"""Where OpenAI's routes live: the one its clients expect, and the one that says whose dialect it is."""


def create_app(services: Services, options: ServerOptions) -> ASGIApp:
    """The whole front door. The outermost layer comes last."""
    app: ASGIApp = _api(services, options)
    app = BodyLimit(app, max_bytes=options.max_body_bytes, seconds=options.body_seconds)
    app = InFlightLimit(
        app,
        paths=frozenset(prefix + path for prefix in PREFIXES for path in GENERATION_PATHS),
        limit=lambda: options.max_in_flight * max(1, len(services.pool.loaded)),
    )
    if options.allowed_origins:
        app = Cors(app)
    app = Gate(app, OriginRule(options.allowed_origins))
    app = Gate(app, HostRule(is_loopback=options.is_loopback, allowed=options.allowed_hosts))
    return RequestId(AccessLog(app))


def _api(services: Services, options: ServerOptions) -> FastAPI:
    version = installed_version("hyprstream")
    preload = Preload(services.pool, options.preload)
    api = _Api(
        title="hyprstream",
        version=version,
        lifespan=preload.running,
        # The interactive pages load their scripts from a foreign host.
        docs_url=None,
        redoc_url=None,
        # A redirect would be built from the Host header.
        redirect_slashes=False,
    )
    api.add_exception_handler(Exception, _on_error)
    api.add_exception_handler(HyprstreamError, _on_error)
    api.add_exception_handler(HTTPException, _on_status)
    api.add_exception_handler(ClientDisconnect, _on_disconnect)
    for prefix in PREFIXES:
        api.include_router(openai_routes(services, options, version=version), prefix=prefix)
    api.include_router(status_routes(services.pool, preload, version=version))
    return api


class _Api(FastAPI):
    """FastAPI, whose OpenAPI document also holds the bodies that our routes read themselves, and how to send a key."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update(_schemas(ChatCompletionBody, CompletionBody))
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}, {}]
        return document


def _schemas(*bodies: type[BaseModel]) -> dict[str, Any]:
    _, document = models_json_schema(
        [(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}"
    )
    return document["$defs"]


async def _on_error(request: Request, error: Exception) -> Response:
    return error_response(error, request.scope)


async def _on_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for this class"
    return status_response(error.status_code, request.scope, error.headers)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)
