"""Which model is loaded where."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import pytest

from hyprstream.core.errors import NotFound, Unavailable
from hyprstream.core.ports import EngineClient
from hyprstream.core.refs import ModelRef
from hyprstream.engine.loop import EngineLoop
from hyprstream.engine.scripted import ScriptedBackend
from hyprstream.services.pool import EnginePool

A, B, C = ModelRef("a"), ModelRef("b"), ModelRef("c")


class Loads:
    """A loader that remembers what it loaded, and waits while `gate` is closed."""

    def __init__(self) -> None:
        self.refs: list[ModelRef] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, ref: ModelRef) -> EngineClient:
        self.refs.append(ref)
        assert self.gate.wait(20)
        if ref.name == "missing":
            raise NotFound("no such model")
        return EngineLoop(ScriptedBackend(), max_queue=1)


@pytest.fixture
def loads() -> Loads:
    return Loads()


@pytest.fixture
async def pool(loads: Loads) -> AsyncGenerator[EnginePool]:
    pool = EnginePool(loads, capacity=2)
    yield pool
    await pool.aclose()


async def test_a_model_is_loaded_once_and_kept(pool: EnginePool, loads: Loads) -> None:
    async with pool.lease(A) as first:
        pass
    async with pool.lease(A) as second:
        assert first is second
    assert loads.refs == [A]


async def test_requests_for_a_model_being_loaded_wait_for_that_load(
    pool: EnginePool, loads: Loads
) -> None:
    async def lease() -> EngineClient:
        async with pool.lease(A) as engine:
            return engine

    assert len(set(await asyncio.gather(*(lease() for _ in range(5))))) == 1
    assert loads.refs == [A]


async def test_the_least_recently_used_idle_model_makes_room(
    pool: EnginePool, loads: Loads
) -> None:
    for ref in (A, B, A, C):
        async with pool.lease(ref):
            pass
    assert list(pool.loaded) == [A, C]
    assert loads.refs == [A, B, C]


async def test_a_leased_model_is_never_evicted(pool: EnginePool) -> None:
    async with pool.lease(A) as engine, AsyncExitStack() as stack:
        async with pool.lease(B):
            pass
        await stack.enter_async_context(pool.lease(C))
        assert engine.is_alive
        with pytest.raises(Unavailable, match="2 loaded models are busy"):
            await stack.enter_async_context(pool.lease(B))


async def test_a_failed_load_is_reported_and_tried_again(pool: EnginePool, loads: Loads) -> None:
    missing = ModelRef("missing")
    for _ in range(2):
        with pytest.raises(NotFound):
            async with pool.lease(missing):
                pass
    assert loads.refs == [missing, missing]


async def test_a_load_outlives_the_client_that_asked_for_it(pool: EnginePool, loads: Loads) -> None:
    loads.gate.clear()
    impatient = asyncio.create_task(pool.load(A))
    while not loads.refs:
        await asyncio.sleep(0.001)
    impatient.cancel()
    loads.gate.set()
    async with pool.lease(A):
        assert loads.refs == [A]


async def test_a_dead_engine_is_replaced(pool: EnginePool, loads: Loads) -> None:
    async with pool.lease(A) as engine:
        await engine.aclose()
    async with pool.lease(A) as fresh:
        assert fresh.is_alive
    assert loads.refs == [A, A]


async def test_a_closed_pool_lends_nothing(pool: EnginePool) -> None:
    async with pool.lease(A) as engine:
        pass
    await pool.aclose()
    assert not engine.is_alive
    with pytest.raises(Unavailable):
        async with pool.lease(A):
            pass


async def test_a_branch_that_has_moved_is_loaded_again_and_the_old_version_ends_its_work(
    loads: Loads,
) -> None:
    versions = {A: "first"}
    pool = EnginePool(loads, capacity=2, identify=versions.__getitem__)
    async with pool.lease(A) as old:
        versions[A] = "second"
        async with pool.lease(A) as new:
            assert new is not old
            assert old.is_alive
    await pool.aclose()


async def test_two_names_of_one_version_share_an_engine(loads: Loads) -> None:
    pool = EnginePool(loads, capacity=1, identify=lambda _: "the same weights")
    async with pool.lease(A) as first, pool.lease(B) as second:
        assert first is second
    assert loads.refs == [A]
    await pool.aclose()
