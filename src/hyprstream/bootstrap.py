"""The composition root: settings in, wired objects out. The only file that names concrete classes."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from hyprstream.core.ports import EngineClient
from hyprstream.core.refs import ModelRef
from hyprstream.engine.llamacpp import LlamaCppBackend, LlamaCppOptions
from hyprstream.engine.loop import EngineLoop
from hyprstream.policy.policy import KeyPolicy
from hyprstream.registry.store import ModelStore
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
    """Every use case, wired; leaving the block unloads every model. `extra` are GGUF files to serve beside the store's."""
    services = build_services(settings)
    try:
        yield services
    finally:
        await services.pool.aclose()


def build_services(settings: Settings) -> Services:
    """Every use case, wired. Whoever calls it closes `services.pool` in the end."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    store = open_store(settings)
    key = settings.server.api_key
    policy = KeyPolicy(key_required=key is not None)
    pool = EnginePool(_loader(store, settings.engine), capacity=settings.models.max_cached)
    return Services(
        access=Access(key.get_secret_value() if key else None),
        chat=ChatService(policy, pool, PromptRenderer()),
        models=ModelService(policy, store, pool),
        pool=pool,
    )


def _loader(store: ModelStore, settings: EngineSettings) -> Callable[[ModelRef], EngineClient]:
    options = LlamaCppOptions(
        n_ctx=settings.n_ctx,
        n_slots=settings.n_slots,
        n_batch=settings.n_batch,
        n_threads=settings.n_threads or _n_cores(),
        use_mmap=settings.use_mmap,
    )

    def load_engine(ref: ModelRef) -> EngineClient:
        backend = LlamaCppBackend(Path(store.resolve(ref).path), options)
        return EngineLoop(backend, max_queue=settings.max_queue)

    return load_engine


def _n_cores() -> int:
    """Physical cores this process may use; two hardware threads of one core only get in each other's way."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(psutil.cpu_count(logical=False) or 1, available or 1))
