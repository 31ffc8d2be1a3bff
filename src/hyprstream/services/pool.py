"""Which model is loaded where. Knows how many may be in memory at once; knows neither files nor slots."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from hyprstream.core.errors import Unavailable
from hyprstream.core.ports import EngineClient
from hyprstream.core.refs import ModelRef

Loader = Callable[[ModelRef], EngineClient]
"""Loads a model; blocks for seconds; raises NotFound, InvalidModelFile or BackendError."""


Identify = Callable[[ModelRef], Hashable]
"""What a reference means at this moment: a branch that moves means something else, two names of one version the same."""


@dataclass(slots=True)
class _Entry:
    ref: ModelRef
    """What it was loaded as."""
    engine: EngineClient
    n_leases: int = 0


class EnginePool:
    """At most `capacity` loaded models; the least recently used idle one makes room. A leased engine is never evicted.

    Loads happen one at a time, and requests for a model that is being loaded wait for that one load. References with the same
    identity share an engine.
    """

    def __init__(
        self, load: Loader, *, capacity: int, identify: Identify = lambda ref: ref
    ) -> None:
        self._load = load
        self._identify = identify
        self._capacity = capacity
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._loads: dict[Hashable, asyncio.Task[None]] = {}
        self._one_load = asyncio.Lock()
        self._is_closed = False

    @asynccontextmanager
    async def lease(self, ref: ModelRef) -> AsyncGenerator[EngineClient]:
        """The engine that serves `ref`, loading it first if need be. It stays loaded while the block lasts.

        Raises:
            NotFound: no such model.
            Unavailable: the pool is closed, or every loaded model is busy and there is no room for another.
        """
        key = await self._key(ref)
        entry = await self._entry(key, ref)
        entry.n_leases += 1
        self._entries.move_to_end(key)
        try:
            yield entry.engine
        finally:
            entry.n_leases -= 1

    async def load(self, ref: ModelRef) -> EngineClient:
        """Load `ref` now, so that the first request need not wait. Raises what `lease` raises."""
        return (await self._entry(await self._key(ref), ref)).engine

    def peek(self, ref: ModelRef) -> EngineClient | None:
        """The engine of `ref` if it is loaded already."""
        entry = self._entries.get(self._identify(ref))
        return entry.engine if entry else None

    @property
    def loaded(self) -> dict[ModelRef, EngineClient]:
        """Every loaded model, least recently used first."""
        return {entry.ref: entry.engine for entry in self._entries.values()}

    async def aclose(self) -> None:
        """End every request and give the memory back."""
        self._is_closed = True
        if self._loads:
            await asyncio.wait(self._loads.values())
        while self._entries:
            _, entry = self._entries.popitem()
            await entry.engine.aclose()

    async def _key(self, ref: ModelRef) -> Hashable:
        # What a branch means is read from a few files; to find a commit or a digest may take git itself.
        if ref.may_be_commit or ref.is_digest:
            return await asyncio.to_thread(self._identify, ref)
        return self._identify(ref)

    async def _entry(self, key: Hashable, ref: ModelRef) -> _Entry:
        while (entry := self._entries.get(key)) is None or not entry.engine.is_alive:
            if self._is_closed:
                raise Unavailable("the server is shutting down")
            if entry is not None:
                # It failed for good: make room for a new one, unless another request has done so already.
                del self._entries[key]
                await entry.engine.aclose()
                continue
            load = self._loads.get(key)
            if load is None:
                load = self._loads[key] = asyncio.create_task(self._load_one(key, ref))
            # The load outlives a client that leaves: a half-loaded model could not be given back.
            await asyncio.shield(load)
        return entry

    async def _load_one(self, key: Hashable, ref: ModelRef) -> None:
        try:
            async with self._one_load:
                await self._make_room()
                self._entries[key] = _Entry(ref, await asyncio.to_thread(self._load, ref))
        finally:
            del self._loads[key]

    async def _make_room(self) -> None:
        while len(self._entries) >= self._capacity:
            idle = next((key for key, entry in self._entries.items() if entry.n_leases == 0), None)
            if idle is None:
                raise Unavailable(
                    f"all {self._capacity} loaded models are busy",
                    retry_after=5,
                    hint="raise HYPRSTREAM_MAX_CACHED_MODELS or try again",
                )
            await self._entries.pop(idle).engine.aclose()
