"""What surrounds a request, through the whole application."""

import asyncio

import httpx
import pytest
import structlog

from support.fake_engine import FakeEngine
from support.front_door import HELLO, SOON, http_client, serving

ORIGIN = {"origin": "http://app.example"}


async def chat(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=HELLO, headers=headers)


async def test_every_answer_has_a_request_id():
    async with http_client(FakeEngine("a"), api_key="k") as client:
        answers = [
            await client.get("/health"),
            await client.get("/nope"),
            await chat(client),
            await client.get("/health", headers={"host": "evil.example"}),
        ]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 4


@pytest.mark.parametrize(
    ("sent", "is_kept"), [("trace-1.a_B", True), ("x" * 65, False), ("a b", False), ("é", False)]
)
async def test_a_sane_request_id_is_kept(sent, is_kept):
    async with http_client(FakeEngine("a")) as client:
        answer = await client.get("/health", headers={"x-request-id": sent.encode("latin-1")})
    assert (answer.headers["x-request-id"] == sent) is is_kept


async def test_the_log_has_a_line_per_request_and_nothing_that_was_confided():
    with structlog.testing.capture_logs() as logs:
        async with http_client(FakeEngine("a"), api_key="sesame") as client:
            await client.post(
                "/v1/chat/completions?token=sesame",
                json=HELLO,
                headers={"authorization": "Bearer sesame", "x-request-id": "r1"},
            )
    [line] = [line for line in logs if line["event"] == "request"]
    assert line["method"] == "POST"
    assert line["path"] == "/v1/chat/completions"
    assert line["status"] == 200
    assert line["request_id"] == "r1"
    assert line["ms"] > 0
    assert "sesame" not in str(logs)
    assert "Hello" not in str(logs)


async def test_a_path_cannot_write_lines_into_the_log():
    with structlog.testing.capture_logs() as logs:
        async with http_client(FakeEngine()) as client:
            await client.get("/a%0Aforged%20line")
    assert logs[-1]["path"] == "/a%0Aforged%20line"


async def test_an_unforeseen_error_is_logged_with_its_request_id():
    with structlog.testing.capture_logs() as logs:
        async with http_client(FakeEngine(refuses=KeyError("x"))) as client:
            answer = await chat(client)
    assert answer.status_code == 500
    [line] = [line for line in logs if line["event"] == "unforeseen error"]
    assert line["exc_info"]
    assert line["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("origin", ["null", "http://evil.example"])
async def test_a_foreign_page_is_refused_and_nothing_happens(origin):
    engine = FakeEngine("a")
    async with http_client(engine) as client:
        answer = await client.post(
            "/v1/chat/completions",
            json=HELLO,
            headers={"origin": origin, "content-type": "text/plain"},
        )
        preflight = await client.options(
            "/v1/chat/completions",
            headers={"origin": origin, "access-control-request-method": "POST"},
        )
    for response in (answer, preflight):
        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers
    assert engine.jobs == []


async def test_a_foreign_host_is_refused_and_nothing_happens():
    engine = FakeEngine("a")
    async with http_client(engine) as client:
        answer = await chat(client, host="evil.example")
    assert answer.status_code == 403
    assert engine.jobs == []


async def test_a_page_of_a_listed_origin_may_ask_and_read():
    async with http_client(FakeEngine("a"), allowed_origins=("http://app.example",)) as client:
        preflight = await client.options(
            "/v1/chat/completions",
            headers=ORIGIN
            | {
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,x-stainless-os",
            },
        )
        answer = await chat(client, **ORIGIN)
        refused = await chat(client, origin="http://evil.example")
        program = await chat(client)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "http://app.example"
    assert preflight.headers["access-control-allow-headers"] == "authorization,x-stainless-os"
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "http://app.example"
    assert "access-control-allow-credentials" not in answer.headers
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers
    assert "access-control-allow-origin" not in program.headers


async def test_a_preflight_that_asks_for_nonsense_is_told_the_headers_there_are():
    async with http_client(FakeEngine(), allowed_origins=("*",)) as client:
        preflight = await client.options(
            "/v1/models",
            headers=ORIGIN
            | {
                "access-control-request-method": "GET",
                "access-control-request-headers": "a;b",
            },
        )
    allowed = preflight.headers["access-control-allow-headers"]
    assert allowed == "authorization, content-type, x-api-key"


async def test_one_request_too_many_is_refused_and_the_place_is_given_back():
    engine = FakeEngine("a", stalls_at=0)
    async with http_client(engine, max_in_flight=1) as client:
        first = asyncio.create_task(chat(client))
        await asyncio.wait_for(engine.entered.wait(), SOON)
        refused = await client.post("/oai/v1/completions", content=unreadable())
        models = await client.get("/v1/models")
        engine.release.set()
        assert (await first).status_code == 200
        assert (await chat(client)).status_code == 200
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert models.status_code == 200


async def unreadable():
    raise AssertionError("the body of a refused request is not read")
    yield b""


async def test_a_body_over_the_limit_is_refused_before_it_is_parsed():
    engine = FakeEngine("a")
    async with http_client(engine, max_body_bytes=1000) as client:
        declared = await client.post("/v1/chat/completions", content=b"[" * 1001)

        async def chunks():
            for _ in range(11):
                yield b"[" * 100

        chunked = await client.post("/v1/chat/completions", content=chunks())
        fits = await client.post("/v1/chat/completions", content=b"[" * 1000)
    assert declared.status_code == chunked.status_code == 413
    assert declared.json()["error"]["code"] == "request_too_large"
    assert fits.status_code == 400


async def test_a_body_that_is_still_being_sent_holds_nobody_up():
    async with (
        serving(FakeEngine("a"), max_in_flight=1) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{"
        writer.write(head)
        await writer.drain()
        assert (await chat(client)).status_code == 200
        writer.transport.abort()


async def test_a_compressed_body_is_refused_and_not_misread():
    async with http_client(FakeEngine("a")) as client:
        assert (await chat(client, **{"content-encoding": "gzip"})).status_code == 415
        assert (await chat(client, **{"content-encoding": "identity"})).status_code == 200
