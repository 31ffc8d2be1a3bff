"""Is the server there, and ready?"""

import threading

import httpx

from hyprstream.core.errors import NotFound
from hyprstream.core.ports import EngineClient
from hyprstream.core.refs import ModelRef
from hyprstream.server.status import Preload
from hyprstream.services.pool import EnginePool
from support.fake_engine import FakeEngine
from support.front_door import eventually, http_client, serving

FAKE = ModelRef("fake")


async def test_it_is_not_ready_while_a_model_is_loading():
    may_load = threading.Event()

    def load(_: ModelRef) -> EngineClient:
        may_load.wait()
        return FakeEngine()

    pool = EnginePool(load, capacity=1)
    preload = Preload(pool, (FAKE,))
    async with preload.running(None):
        assert preload.missing is not None
        may_load.set()
        await eventually(lambda: preload.missing is None)
    assert list(pool.loaded) == [FAKE]
    await pool.aclose()


async def test_health_is_ok_once_the_models_are_loaded():
    async with (
        serving(FakeEngine("a"), preload=(FAKE,)) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        while (answer := await client.get("/health")).status_code == 503:
            assert answer.json()["error"]["type"] == "unavailable_error"
    assert answer.json()["status"] == "ok"
    assert answer.json()["models"] == 1


async def test_health_stays_unavailable_and_says_why_if_a_model_cannot_be_loaded():
    preload = Preload(EnginePool(missing, capacity=1), (FAKE,))
    async with preload.running(None):
        await eventually(lambda: "no such file" in str(preload.missing))


def missing(_: ModelRef) -> EngineClient:
    raise NotFound("no such file")


async def test_the_root_says_where_to_go_on():
    async with http_client(FakeEngine()) as client:
        answer = (await client.get("/")).json()
        probe = await client.head("/")
    assert answer["name"] == "hyprstream"
    assert answer["api"] == ["/v1", "/oai/v1"]
    assert (probe.status_code, probe.content) == (200, b"")


async def test_the_openapi_document_is_whole():
    async with http_client(FakeEngine()) as client:
        document = (await client.get("/openapi.json")).json()
    chat = document["paths"]["/v1/chat/completions"]["post"]
    body = chat["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/ChatCompletionBody"}
    assert set(references(document)) <= {
        f"#/components/schemas/{name}" for name in document["components"]["schemas"]
    }


def references(tree: object) -> list[str]:
    if isinstance(tree, dict):
        own = [value for key, value in tree.items() if key == "$ref"]
        return own + [ref for value in tree.values() for ref in references(value)]
    if isinstance(tree, list):
        return [ref for value in tree for ref in references(value)]
    return []
