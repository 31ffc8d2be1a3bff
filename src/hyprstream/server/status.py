"""Is the server there, and ready? Public: counts, and no names of models or anyone's requests."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

from hyprstream.core.errors import HyprstreamError, Unavailable
from hyprstream.core.refs import ModelRef
from hyprstream.server.errors import error_response, json_response
from hyprstream.services.pool import EnginePool

_log = structlog.stdlib.get_logger(__name__)


class Preload:
    """Loads the configured models while the server is already listening."""

    def __init__(self, pool: EnginePool, refs: tuple[ModelRef, ...]) -> None:
        self._pool = pool
        self._refs = refs
        self.missing: str | None = "the models are still loading" if refs else None
        """Why the server is not ready; None once it is."""

    @asynccontextmanager
    async def running(self, _app: object) -> AsyncGenerator[None]:
        """The application's lifespan."""
        loading = asyncio.create_task(self._load())
        try:
            yield
        finally:
            loading.cancel()

    async def _load(self) -> None:
        for ref in self._refs:
            try:
                await self._pool.load(ref)
            except HyprstreamError as error:
                self.missing = f"{ref} could not be loaded: {error.message}"
                _log.error("preload failed", model=str(ref), error=error.message)
                return
        self.missing = None


def status_routes(pool: EnginePool, preload: Preload, *, version: str) -> APIRouter:
    """`/health` and `/`."""
    api = APIRouter(tags=["status"])

    @api.head("/health", include_in_schema=False)
    @api.get("/health")
    async def health(request: Request) -> Response:
        """503 until the configured models are loaded, 200 from then on."""
        if preload.missing is not None:
            return error_response(Unavailable(preload.missing), request.scope)
        stats = [engine.stats() for engine in pool.loaded.values()]
        return json_response(
            {
                "status": "ok",
                "version": version,
                "models": len(stats),
                "slots": {
                    "total": sum(s.n_slots for s in stats),
                    "busy": sum(s.n_slots_busy for s in stats),
                },
                "waiting": sum(s.n_waiting for s in stats),
            }
        )

    @api.head("/", include_in_schema=False)
    @api.get("/")
    async def root() -> Response:
        """What this is and where to go on."""
        return json_response(
            {
                "name": "hyprstream",
                "version": version,
                "api": ["/v1", "/oai/v1"],
                "health": "/health",
                "openapi": "/openapi.json",
            }
        )

    return api
