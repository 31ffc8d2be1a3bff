"""Hostile bytes on the socket. Whatever comes, the answer is a refusal, and the next request is served."""

import asyncio

import httpx
import orjson
import pytest

from hyprstream.server import protocol
from support.fake_engine import FakeEngine
from support.front_door import HELLO, SOON, http_client, serving


async def exchange(url: str, request: bytes) -> bytes:
    """What the server answers until it closes the connection or waits for more."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request.replace(b"OUR-HOST", f"{host}:{port}".encode()))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON)
    finally:
        writer.transport.abort()
    return head


async def is_well(url: str) -> bool:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        return (await client.get("/health")).status_code == 200


def status(head: bytes) -> int:
    return int(head.split(b" ")[1])


GET = b"GET /v1/models HTTP/1.1\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        GET + b"\r\n",
        GET + b"Host: x/skip?\r\n\r\n",
        GET + b"Host: x#\r\n\r\n",
        GET + b"Host: x\\\\\r\n\r\n",
        GET + b"Host: OUR-HOST\r\nHost: OUR-HOST\r\n\r\n",
        GET + b"Host: OUR-HOST\r\nHost: evil.example\r\n\r\n",
        GET + b"Host : OUR-HOST\r\n\r\n",
        GET + b"Host: OUR-HOST\r\nX: a\x00b\r\n\r\n",
        b"GET /v1/models HTTP/1.1\nHost: OUR-HOST\n\n\r\n\r\n",
        b"GET /v1/models HTTP/9.9\r\nHost: OUR-HOST\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: OUR-HOST\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: OUR-HOST\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: OUR-HOST\r\n"
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST /v1/completions HTTP/1.1\r\nHost: OUR-HOST\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: OUR-HOST\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: OUR-HOST\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n",
    ],
)
async def test_a_malformed_request_is_a_bad_request(request_):
    engine = FakeEngine("a")
    async with serving(engine) as url:
        assert status(await exchange(url, request_)) == 400
        assert await is_well(url)
    assert engine.jobs == []


@pytest.mark.parametrize(
    "target",
    [
        b"//v1/models",
        b"/v1//models",
        b"/v1/./models",
        b"/v1/x/../models",
        b"/v1%2fmodels",
        b"/v1/models/",
        b"/v1/models;a",
        b"/V1/MODELS",
        b"/health/../v1/models",
        b"/v1/models?key=right",
    ],
)
async def test_no_spelling_of_a_path_gets_around_the_key(target):
    async with serving(FakeEngine("a"), api_key="right") as url:
        request = b"GET " + target + b" HTTP/1.1\r\nHost: OUR-HOST\r\nCookie: key=right\r\n\r\n"
        assert status(await exchange(url, request)) in (401, 404)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_no_other_method_generates(method):
    engine = FakeEngine("a")
    async with http_client(engine) as client:
        answer = await client.request(
            method, "/v1/completions", headers={"x-http-method-override": "POST"}
        )
    assert answer.status_code == 405
    assert engine.jobs == []


@pytest.mark.parametrize(
    "keys",
    [
        [("authorization", "Bearer wrong")],
        [("authorization", "right")],
        [("authorization", "Basic right")],
        [("authorization", "Bearer right"), ("x-api-key", "wrong")],
        [("authorization", "Bearer right"), ("authorization", "Bearer wrong")],
        [("x-api-key", "' OR 1=1 --")],
        [("x-api-key", "%s%n{0}")],
        [("x-api-key", "rightt")],
        [("cookie", "api_key=right")],
    ],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/oai/v1/chat/completions"])
async def test_only_the_key_itself_opens(path, keys):
    engine = FakeEngine("a")
    body = HELLO | {"prompt": "a"}
    async with http_client(engine, api_key="right") as client:
        assert (await client.post(path, json=body, headers=keys)).status_code == 401
    assert engine.jobs == []


async def test_a_head_without_end_is_cut_off():
    async with serving(FakeEngine("a")) as url:
        head = await exchange(url, GET + b"X: " + b"a" * (1 << 20))
        assert status(head) == 431
        assert await is_well(url)


async def test_a_connection_that_says_nothing_is_closed(monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.05)
    async with serving(FakeEngine("a")) as url:
        host, port = url.removeprefix("http://").split(":")
        for said in (b"", GET):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(said)
            assert await asyncio.wait_for(reader.read(), SOON) == b""
            writer.close()
            await writer.wait_closed()


async def test_a_body_that_dribbles_is_a_timeout():
    engine = FakeEngine("a")
    async with serving(engine, body_seconds=0.05) as url:
        head = await exchange(
            url, b"POST /v1/completions HTTP/1.1\r\nHost: OUR-HOST\r\nContent-Length: 9\r\n\r\n{"
        )
        assert status(head) == 408
        assert b"connection: close" in head
    assert engine.jobs == []


async def test_whoever_sends_too_much_lives_to_read_why():
    async with (
        serving(FakeEngine("a"), max_body_bytes=1000) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=SOON) as client,
    ):

        async def chunks():
            for _ in range(100):
                yield b"[" * 65536

        declared = await client.post("/v1/completions", content=b"[" * 6_000_000)
        chunked = await client.post("/v1/completions", content=chunks())
    for answer in (declared, chunked):
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"


async def test_a_body_in_one_byte_chunks_is_read_like_any_other():
    async with serving(FakeEngine("a")) as url:
        chunks = b"1\r\n[\r\n" * 20_000 + b"0\r\n\r\n"
        head = await exchange(
            url,
            b"POST /v1/completions HTTP/1.1\r\nHost: OUR-HOST\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + chunks,
        )
        assert status(head) == 400
        assert await is_well(url)


NUMBERS = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "repeat_last_n",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "top_logprobs",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "xtc_probability",
    "xtc_threshold",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
]


@pytest.mark.parametrize("field", NUMBERS)
async def test_no_number_is_too_strange_to_be_answered(field):
    values = ["-1e308", "1e308", "1e999", "NaN", "9223372036854775808", "-2147483649", '""', "[]"]
    async with http_client(FakeEngine("a")) as client:
        for value in [*values, "{}", "true", '"1"', "1" * 5000]:
            body = (
                f'{{"model":"fake","messages":[{{"role":"user","content":"a"}}],"{field}":{value}}}'
            )
            answer = await client.post("/v1/chat/completions", content=body)
            is_fine = field == "seed" and value in ("9223372036854775808", "-2147483649")
            assert answer.status_code == (200 if is_fine else 400), (value, answer.text)
            assert is_fine or answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_head_over_the_limit_is_refused_in_one_piece_too():
    async with serving(FakeEngine("a")) as url:
        big = b"X-Filler: " + b"a" * (protocol.MAX_HEAD_BYTES + 1)
        assert status(await exchange(url, GET + b"Host: OUR-HOST\r\n" + big + b"\r\n\r\n")) == 431
        assert await is_well(url)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "x"}] * 20_000},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 20_000}]},
        {**HELLO, "dry_sequence_breakers": ["x"] * 100_000},
        {**HELLO, "stop": ["x"] * 100_000},
    ],
)
async def test_a_list_without_end_is_refused_at_its_bound(body):
    engine = FakeEngine("a")
    async with http_client(engine, max_body_bytes=4_000_000) as client:
        answer = await client.post("/v1/chat/completions", json=HELLO | body)
    assert answer.status_code == 400
    assert "at most" in answer.json()["error"]["message"]
    assert engine.jobs == []


async def test_a_client_that_reads_nothing_is_given_up():
    engine = FakeEngine(*["x" * 1000] * 20_000)
    async with serving(engine, send_seconds=0.1) as url:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1024)
        body = orjson.dumps(HELLO | {"stream": True})
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await asyncio.wait_for(engine.left.wait(), SOON)
        assert await is_well(url)
        writer.transport.abort()
