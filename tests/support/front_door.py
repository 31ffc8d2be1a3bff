"""The real front door with a fake engine behind it, on a loopback port or without one, in the test's own event loop."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from openai import AsyncOpenAI
from starlette.types import ASGIApp

from hyprstream.core.errors import NotFound, Unauthenticated
from hyprstream.core.models import ModelFacts, StoredModel
from hyprstream.core.ports import EngineClient
from hyprstream.core.principal import Principal
from hyprstream.core.refs import ModelRef
from hyprstream.policy.policy import CasbinPolicy
from hyprstream.server.app import create_app
from hyprstream.server.options import ServerOptions
from hyprstream.server.run import Server
from hyprstream.services.access import Access, TokenIdentifier
from hyprstream.services.chat import ChatService
from hyprstream.services.limits import Limits, LimitValues
from hyprstream.services.models import ModelService
from hyprstream.services.pool import EnginePool
from hyprstream.services.prompt import PromptRenderer
from hyprstream.services.services import Services
from support.memory_history import MemoryHistory

SOON = 20.0
"""Seconds within which what must happen promptly has happened, on a slow machine too."""

MODELS = ("fake", "other:lora/medical")
HELLO = {"model": "fake", "messages": [{"role": "user", "content": "Hello"}]}


EVERYBODY_MAY = "p, *, *, *, *, allow\n"


class NoTokens:
    """Nobody was ever issued a token."""

    def identify(self, token: str) -> Principal:
        raise Unauthenticated("there are no tokens")


@dataclass(frozen=True)
class FakeEntry:
    """How a model that exists by name only would lie on disk."""

    ref: ModelRef
    driver: str = "hardlink"
    shared_bytes: int = 2_300_000_000
    created: int = 1700000000


class FakeStore:
    """Two models that exist by name only."""

    def entries(self) -> list[FakeEntry]:
        return [FakeEntry(ModelRef.parse(name)) for name in MODELS]

    def canonical(self, ref: ModelRef) -> ModelRef:
        return self.resolve(ref).ref

    def branches_of(self, ref: ModelRef) -> tuple[ModelRef, ...]:
        return (self.resolve(ref).ref,)

    def list(self) -> list[StoredModel]:
        return [_stored(name) for name in MODELS]

    def resolve(self, ref: ModelRef) -> StoredModel:
        if str(ref) not in MODELS:
            raise NotFound(f"there is no model {ref}", hint="there are " + ", ".join(MODELS))
        return _stored(str(ref))


def _stored(name: str) -> StoredModel:
    facts = ModelFacts("llama", name, 10, "Q8_0", 256, 8, 2, None, None, 1000)
    return StoredModel(
        ModelRef.parse(name), "/models/x.gguf", 20, "0" * 64, name, 1700000000, facts
    )


def services_around(
    engine: EngineClient,
    *,
    api_key: str | None = None,
    rules: str = EVERYBODY_MAY,
    tokens: TokenIdentifier | None = None,
) -> Services:
    """The use cases, with `engine` for every stored model, under a policy of these rules."""
    store, prompts = FakeStore(), PromptRenderer()
    policy = CasbinPolicy(MemoryHistory(rules), owner="local:owner")

    def load(ref: ModelRef) -> EngineClient:
        store.resolve(ref)
        return engine

    pool = EnginePool(load, capacity=2)
    return Services(
        access=Access(
            tokens or NoTokens(), policy, api_key=api_key, api_key_subject="token:api-key"
        ),
        chat=ChatService(policy, store, pool, prompts, Limits(LimitValues(), max_queue=8)),
        models=ModelService(policy, store, pool),
        pool=pool,
        prompts=prompts,
    )


@asynccontextmanager
async def serving(
    engine: EngineClient,
    *,
    api_key: str | None = None,
    rules: str = EVERYBODY_MAY,
    tokens: TokenIdentifier | None = None,
    grace_seconds: float = 5.0,
    **options: object,
) -> AsyncGenerator[str]:
    """A block during which the server answers at the URL."""
    async with application(engine, api_key=api_key, rules=rules, tokens=tokens, **options) as app:
        server = Server(app, "127.0.0.1", 0, grace_seconds=grace_seconds)
        async with server.running():
            yield server.url


@asynccontextmanager
async def application(
    engine: EngineClient,
    *,
    api_key: str | None = None,
    rules: str = EVERYBODY_MAY,
    tokens: TokenIdentifier | None = None,
    **options: object,
) -> AsyncGenerator[ASGIApp]:
    """The application without a server."""
    services = services_around(engine, api_key=api_key, rules=rules, tokens=tokens)
    defaults = {"is_loopback": True, "max_body_bytes": 100_000, "generation_timeout": SOON}
    yield create_app(services, ServerOptions(**defaults | options))  # type: ignore[arg-type]
    await services.aclose()


@asynccontextmanager
async def http_client(
    engine: EngineClient, *, api_key: str | None = None, **options: object
) -> AsyncGenerator[httpx.AsyncClient]:
    """A plain HTTP client of an application of its own. There is no socket between them: a stream arrives as a whole."""
    async with (
        application(engine, api_key=api_key, **options) as app,
        httpx.AsyncClient(
            base_url="http://127.0.0.1:8080", transport=httpx.ASGITransport(app)
        ) as client,
    ):
        yield client


@asynccontextmanager
async def openai_client(
    engine: EngineClient, *, api_key: str | None = None, **options: object
) -> AsyncGenerator[AsyncOpenAI]:
    """The official client of a server of its own."""
    async with (
        serving(engine, api_key=api_key, **options) as url,
        AsyncOpenAI(
            base_url=f"{url}/v1", api_key=api_key or "unused", max_retries=0, timeout=SOON
        ) as client,
    ):
        yield client


async def eventually(is_true: Callable[[], bool]) -> None:
    """Return once the condition holds; fail if it does not soon."""
    async with asyncio.timeout(SOON):
        while not is_true():
            await asyncio.sleep(0.001)
