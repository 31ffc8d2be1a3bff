"""The model routes, as OpenAI's own client sees them."""

import re

import pytest
from openai import NotFoundError

from support.fake_engine import FakeEngine
from support.front_door import HELLO, http_client, openai_client


async def test_stored_models_are_listed_with_what_clients_ask_for():
    async with openai_client(FakeEngine("a")) as client:
        models = [model async for model in client.models.list()]
    assert [model.id for model in models] == ["fake:main", "other:lora/medical"]
    assert models[0].object == "model"
    assert models[0].created == 1700000000
    assert models[0].model_extra["meta"] == {
        "architecture": "llama",
        "quantization": "Q8_0",
        "n_ctx": None,
        "n_ctx_train": 256,
        "n_params": 10,
        "size": 20,
    }


async def test_a_model_says_how_it_lies_on_disk_and_whether_it_is_in_memory():
    async with http_client(FakeEngine("a")) as client:
        before = (await client.get("/v1/models/fake")).json()["owned_by"]
        await client.post("/v1/chat/completions", json=HELLO)
        listed = (await client.get("/v1/models")).json()["data"]
    assert re.fullmatch(r"system driver:hardlink, saved:2\.3GB, age:\d+d", before)
    assert [model["owned_by"].endswith(" cached") for model in listed] == [True, False]


@pytest.mark.parametrize("path", ["fake", "fake:main"])
async def test_the_main_branch_is_found_written_either_way(path):
    async with http_client(FakeEngine("a")) as client:
        response = await client.get(f"/v1/models/{path}")
    assert response.json()["id"] == "fake:main"


async def test_a_model_says_whether_it_is_loaded_and_with_which_window():
    async with http_client(FakeEngine("a")) as client:
        before = (await client.get("/v1/models/fake")).json()
        await client.post("/v1/chat/completions", json=HELLO)
        after = (await client.get("/v1/models/fake")).json()
    assert (before["status"], before["meta"]["n_ctx"]) == ({"value": "unloaded"}, None)
    assert (after["status"], after["meta"]["n_ctx"]) == ({"value": "loaded"}, 128)


@pytest.mark.parametrize("path", ["other:lora/medical", "other%3Alora%2Fmedical"])
@pytest.mark.parametrize("prefix", ["/v1", "/oai/v1"])
async def test_a_name_with_a_slash_is_found_written_either_way(prefix, path):
    async with http_client(FakeEngine("a")) as client:
        response = await client.get(f"{prefix}/models/{path}")
    assert response.json()["id"] == "other:lora/medical"


@pytest.mark.parametrize("model", ["absent", "not/a/name", "a..b", "a" * 500])
async def test_a_model_that_is_not_there_is_not_found(model):
    async with openai_client(FakeEngine("a")) as client:
        with pytest.raises(NotFoundError) as caught:
            await client.models.retrieve(model)
    assert caught.value.code == "model_not_found"
