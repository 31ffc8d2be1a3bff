"""The composition root: settings in, wired objects out. The only file that names concrete classes."""

import os
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from hyprstream.core.errors import Invalid
from hyprstream.core.models import StoredModel
from hyprstream.core.ports import EngineClient
from hyprstream.core.refs import ModelRef
from hyprstream.engine.llamacpp import LlamaCppBackend, LlamaCppOptions
from hyprstream.engine.loop import EngineLoop
from hyprstream.logs import start_logging
from hyprstream.policy.policy import KeyPolicy
from hyprstream.registry.store import ModelStore
from hyprstream.server import run
from hyprstream.server.app import create_app
from hyprstream.server.options import ServerOptions
from hyprstream.services.access import Access
from hyprstream.services.chat import ChatService
from hyprstream.services.models import ModelService
from hyprstream.services.pool import EnginePool
from hyprstream.services.prompt import PromptRenderer
from hyprstream.services.services import Services
from hyprstream.settings import EngineSettings, Settings, load

SWITCH_INTERVAL = 0.001
"""Seconds one thread may keep the interpreter while another wants it: the engine thread wants it after every step."""


def open_store(settings: Settings | None = None) -> ModelStore:
    """The model store of these settings, or of the user's own."""
    return ModelStore((settings or load().settings).models.dir)


@asynccontextmanager
async def open_services(
    settings: Settings, *, extra: Sequence[Path] = ()
) -> AsyncGenerator[Services]:
    """Every use case, wired; leaving the block unloads every model. `extra` are GGUF files to offer beside the store's.

    Raises:
        NotFound, InvalidModelFile: one of `extra` is not there or not sound.
    """
    services = build_services(settings, extra=extra)
    try:
        yield services
    finally:
        await services.aclose()


def build_services(settings: Settings, *, extra: Sequence[Path] = ()) -> Services:
    """Every use case, wired. Whoever calls this closes them in the end."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    models = _Models(open_store(settings), extra)
    key = settings.server.api_key
    policy = KeyPolicy(key_required=key is not None)
    pool = EnginePool(_loader(models, settings.engine), capacity=settings.models.max_cached)
    prompts = PromptRenderer()
    return Services(
        access=Access(key.get_secret_value() if key else None),
        chat=ChatService(policy, pool, prompts),
        models=ModelService(policy, models, pool),
        pool=pool,
        prompts=prompts,
    )


def serve(
    settings: Settings, *, models: Sequence[str] = (), on_started: Callable[[str], None]
) -> None:
    """Serve the OpenAI API until a signal ends it. `models` are loaded first, beside those the settings name.

    Raises:
        Invalid: a model name does not follow the grammar.
        OSError: the address cannot be bound.
    """
    preload = tuple(
        ModelRef.parse(name) for name in dict.fromkeys([*settings.models.preload, *models])
    )
    start_logging(settings.log)
    server = settings.server
    options = ServerOptions(
        is_loopback=server.is_loopback,
        max_body_bytes=server.max_body_bytes,
        allowed_hosts=server.allowed_hosts,
        allowed_origins=server.cors_origins if server.cors_enabled else (),
        default_model=ModelRef.parse(settings.models.default),
        preload=preload,
        generation_timeout=server.generation_timeout,
        max_in_flight=settings.engine.n_slots + settings.engine.max_queue,
    )

    async def main() -> None:
        async with open_services(settings) as services:
            await run.serve(
                create_app(services, options),
                server.host,
                server.port,
                grace_seconds=server.grace_seconds,
                on_started=on_started,
            )

    run.run(main())


class _Models:
    """The store's models, and files beside it."""

    def __init__(self, store: ModelStore, files: Sequence[Path]) -> None:
        self._store = store
        self._files = {model.ref: model for model in map(store.resolve_path, files)}

    def list(self) -> list[StoredModel]:
        return sorted([*self._files.values(), *self._store.list()], key=lambda model: model.ref)

    def resolve(self, ref: ModelRef) -> StoredModel:
        return self._files.get(ref) or self._store.resolve(ref)


def _loader(models: _Models, settings: EngineSettings) -> Callable[[ModelRef], EngineClient]:
    if settings.n_batch < settings.n_slots:
        raise Invalid(
            f"engine.n_batch = {settings.n_batch} is less than engine.n_slots = {settings.n_slots}",
            param="engine.n_batch",
            hint="one call must hold a token of every slot",
        )
    options = LlamaCppOptions(
        n_ctx=settings.n_ctx,
        n_slots=settings.n_slots,
        n_batch=settings.n_batch,
        n_threads=settings.n_threads or _n_cores(),
        use_mmap=settings.use_mmap,
    )

    def load_engine(ref: ModelRef) -> EngineClient:
        backend = LlamaCppBackend(Path(models.resolve(ref).path), options)
        return EngineLoop(backend, max_queue=settings.max_queue)

    return load_engine


def _n_cores() -> int:
    """Physical cores this process may use; two hardware threads of one core only get in each other's way."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(psutil.cpu_count(logical=False) or 1, available or 1))
