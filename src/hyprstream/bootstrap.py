"""The composition root: settings in, wired objects out. The only file that names concrete classes.

What loads slowly (llama.cpp, the web framework) is imported by the function that needs it: a command that shows the policy
should not wait for an engine.
"""

import os
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hyprstream.core.errors import HyprstreamError, Invalid
from hyprstream.core.files import make_private
from hyprstream.core.models import StoredModel
from hyprstream.core.ports import AuditLog, EngineClient
from hyprstream.core.principal import Principal, Resource, os_principal
from hyprstream.core.refs import ModelRef
from hyprstream.policy.policy import CasbinPolicy
from hyprstream.registry.history import GitTextHistory
from hyprstream.settings import EngineSettings, Settings, load

if TYPE_CHECKING:
    from hyprstream.policy.tokens import TokenStore
    from hyprstream.registry.registry import Registry
    from hyprstream.services.policy import PolicyTools
    from hyprstream.services.registry import RegistryTools
    from hyprstream.services.services import Services

SWITCH_INTERVAL = 0.001
"""Seconds one thread may keep the interpreter while another wants it: the engine thread wants it after every step."""
POLICY_FILE = "policy.csv"
POLICY_POLL_SECONDS = 0.25
"""How often a running server looks for a new policy."""


def open_history(settings: Settings) -> GitTextHistory:
    """The policy's text and its versions."""
    return GitTextHistory(
        settings.data.dir / "policy", POLICY_FILE, author=f"{os_principal()} <{os_principal()}>"
    )


@contextmanager
def open_policy(settings: Settings | None = None) -> "Generator[PolicyTools]":
    """What the commands about the policy, tokens and the audit log call."""
    from hyprstream.services.audit import AuditService
    from hyprstream.services.policy import PolicyService, PolicyTools
    from hyprstream.services.tokens import TokenService

    settings = settings or load().settings
    _log_quietly(settings)
    with ExitStack() as stack:
        history = open_history(settings)
        policy = _policy(settings, history, stack)
        tokens = _tokens(settings)
        stack.callback(tokens.close)
        yield PolicyTools(
            PolicyService(policy, history),
            TokenService(policy, tokens),
            AuditService(policy, settings.data.dir / "audit"),
        )


@contextmanager
def open_registry(settings: Settings | None = None) -> "Generator[RegistryTools]":
    """What the commands about models call."""
    from hyprstream.registry.registry import Registry
    from hyprstream.services.registry import RegistryTools

    settings = settings or load().settings
    _log_quietly(settings)
    registry = Registry(settings.models.dir)
    with ExitStack() as stack:
        policy = _policy(settings, open_history(settings), stack, registry)
        yield RegistryTools.of(policy, registry)


@asynccontextmanager
async def open_services(
    settings: Settings, *, extra: Sequence[Path] = ()
) -> AsyncGenerator["Services"]:
    """Every use case, wired; leaving the block unloads every model. `extra` are GGUF files to offer beside the registry's.

    Raises:
        NotFound, InvalidModelFile: one of `extra` is not there or not sound.
    """
    _log_quietly(settings)
    with ExitStack() as stack:
        services = _services(settings, stack, extra)
        try:
            yield services
        finally:
            await services.aclose()


def serve(
    settings: Settings, *, models: Sequence[str] = (), on_started: Callable[[str], None]
) -> None:
    """Serve the APIs until a signal ends it. `models` are loaded first, beside those the settings name.

    Raises:
        Invalid: a model name does not follow the grammar; a TLS file cannot be used.
        OSError: the address cannot be bound.
    """
    from hyprstream.logs import start_logging
    from hyprstream.server import run
    from hyprstream.server.app import create_app
    from hyprstream.server.options import ServerOptions

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
                tls_cert=server.tls_cert,
                tls_key=server.tls_key,
                tls_client_ca=server.tls_client_ca,
                on_started=on_started,
            )

    run.run(main())


def _services(settings: Settings, stack: ExitStack, extra: Sequence[Path]) -> "Services":
    from hyprstream.registry.registry import Registry
    from hyprstream.services.access import Access
    from hyprstream.services.chat import ChatService
    from hyprstream.services.limits import Limits, LimitValues
    from hyprstream.services.models import ModelService
    from hyprstream.services.pool import EnginePool
    from hyprstream.services.prompt import PromptRenderer
    from hyprstream.services.services import Services

    sys.setswitchinterval(SWITCH_INTERVAL)
    registry = Registry(settings.models.dir)
    models = _Models(registry, extra)
    policy = _policy(settings, open_history(settings), stack, registry)
    stack.enter_context(policy.watch(POLICY_POLL_SECONDS))
    tokens = _tokens(settings)
    stack.callback(tokens.close)
    key = settings.server.api_key
    pool = EnginePool(
        _loader(models, settings.engine),
        capacity=settings.models.max_cached,
        identify=lambda ref: models.resolve(ref).sha256,
    )
    prompts = PromptRenderer()
    limits = settings.limits
    return Services(
        access=Access(
            tokens,
            policy,
            api_key=key.get_secret_value() if key else None,
            api_key_subject=settings.server.api_key_subject or os_principal().subject,
        ),
        chat=ChatService(
            policy,
            models,
            pool,
            prompts,
            Limits(
                LimitValues(
                    limits.requests_per_minute,
                    limits.tokens_per_minute,
                    limits.concurrent,
                    limits.queue_share,
                ),
                max_queue=settings.engine.max_queue,
            ),
        ),
        models=ModelService(policy, models, pool),
        pool=pool,
        prompts=prompts,
    )


def _log_quietly(settings: Settings) -> None:
    """A command's log has warnings only, unless more was asked for; a server's has been started already."""
    import structlog

    from hyprstream.logs import start_logging

    if not structlog.is_configured():
        start_logging(settings.log, is_quiet=True)


def _policy(
    settings: Settings,
    history: GitTextHistory,
    stack: ExitStack,
    registry: "Registry | None" = None,
) -> CasbinPolicy:
    """The policy in force. Leaving `stack` writes the last of its decisions down."""
    make_private(settings.data.dir)
    audit: AuditLog | None = None
    if settings.audit.enabled:
        from hyprstream.policy.audit import JsonAuditLog

        log = JsonAuditLog(
            settings.data.dir / "audit",
            max_bytes=settings.audit.max_bytes,
            keep=settings.audit.keep,
            version_of=_version_of(registry) if registry else None,
        )
        stack.callback(log.close)
        audit = log
    return CasbinPolicy(history, owner=_owner(settings.data.dir).subject, audit=audit)


def _tokens(settings: Settings) -> "TokenStore":
    from hyprstream.policy.keys import KeyRing
    from hyprstream.policy.tokens import TokenStore

    return TokenStore(settings.data.database_url, KeyRing(settings.data.dir / "keys"))


def _owner(directory: Path) -> Principal:
    """Whoever could edit the policy's files anyway; who would make them, while there are none."""
    try:
        return Principal(f"local:{directory.owner()}")
    except (FileNotFoundError, KeyError):
        return os_principal()


def _version_of(registry: "Registry") -> Callable[[Resource], str | None]:
    def version_of(resource: Resource) -> str | None:
        if resource.kind != "model" or resource.name is None:
            return None
        try:
            return registry.resolve(ModelRef.parse(resource.name)).commit or None
        except HyprstreamError:
            return None

    return version_of


class _Models:
    """The registry's models, and files beside it."""

    def __init__(self, registry: "Registry", files: Sequence[Path]) -> None:
        self._registry = registry
        self._files = {model.ref: model for model in map(registry.resolve_path, files)}
        self.entries = registry.entries

    def list(self) -> list[StoredModel]:
        return sorted([*self._files.values(), *self._registry.list()], key=lambda model: model.ref)

    def resolve(self, ref: ModelRef) -> StoredModel:
        return self._files.get(ref) or self._registry.resolve(ref)

    def canonical(self, ref: ModelRef) -> ModelRef:
        return ref if ref in self._files else self._registry.canonical(ref)

    def branches_of(self, ref: ModelRef) -> tuple[ModelRef, ...]:
        return (ref,) if ref in self._files else self._registry.branches_of(ref)


def _loader(models: _Models, settings: EngineSettings) -> Callable[[ModelRef], EngineClient]:
    from hyprstream.engine.llamacpp import LlamaCppBackend, LlamaCppOptions
    from hyprstream.engine.loop import EngineLoop

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
    import psutil

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(psutil.cpu_count(logical=False) or 1, available or 1))
