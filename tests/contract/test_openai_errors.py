"""Errors: the official client's exception classes, and the object every one of them carries."""

import openai
import pytest

from hyprstream.core.errors import (
    BackendError,
    ContextOverflow,
    QueueFull,
    Unavailable,
)
from support.fake_engine import FakeEngine
from support.front_door import HELLO, SOON, http_client, openai_client

USER = {"role": "user", "content": "Hello"}


async def raised(engine: FakeEngine, **request: object) -> openai.APIStatusError:
    async with openai_client(engine) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(**{"model": "fake", "messages": [USER]} | request)
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]
    return caught.value


async def test_an_unknown_model_is_not_found():
    error = await raised(FakeEngine(), model="absent")
    assert isinstance(error, openai.NotFoundError)
    assert error.code == "model_not_found"


async def test_a_prompt_that_does_not_fit_says_both_numbers():
    error = await raised(FakeEngine(refuses=ContextOverflow(needed=900, available=128)))
    assert isinstance(error, openai.BadRequestError)
    assert error.code == "context_length_exceeded"
    assert error.body["n_prompt_tokens"] == 900
    assert error.body["n_ctx"] == 128


async def test_a_full_queue_is_a_rate_limit_with_a_time_to_come_back():
    error = await raised(FakeEngine(refuses=QueueFull(waiting=4, limit=4, retry_after=3)))
    assert isinstance(error, openai.RateLimitError)
    assert error.response.headers["retry-after"] == "3"


async def test_a_server_that_stops_is_unavailable_with_a_time_to_come_back():
    error = await raised(FakeEngine(refuses=Unavailable("closing", retry_after=2)))
    assert error.status_code == 503
    assert error.response.headers["retry-after"] == "2"


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_refused_on_entry_has_its_own_status_in_a_stream_too(stream):
    error = await raised(FakeEngine(refuses=QueueFull(waiting=4, limit=4)), stream=stream)
    assert error.status_code == 429


@pytest.mark.parametrize("failure", [BackendError("at 0x7f12 in /srv/x.py"), KeyError("/srv/x.py")])
async def test_a_failure_of_ours_tells_the_request_id_and_nothing_else(failure):
    error = await raised(FakeEngine(fails=failure))
    assert isinstance(error, openai.InternalServerError)
    assert error.request_id in error.message
    assert "0x7f12" not in error.message
    assert "/srv" not in error.message


async def test_an_answer_that_takes_too_long_ends_and_is_not_asked_for_again():
    engine = FakeEngine("a", "b", stalls_at=1)
    async with openai_client(engine, generation_timeout=0.05) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="fake", messages=[USER])
    assert caught.value.status_code == 504
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert engine.n_open == 0


async def test_a_stream_that_takes_too_long_ends_with_an_error_event():
    engine = FakeEngine("a", "b", stalls_at=1)
    async with http_client(engine, generation_timeout=0.05) as client:
        response = await client.post(
            "/v1/chat/completions", json=HELLO | {"stream": True}, timeout=SOON
        )
    assert response.status_code == 200
    assert '"content":"a"' in response.text
    assert '"code":"deadline_exceeded"' in response.text.splitlines()[-2]
    assert "[DONE]" not in response.text
    assert engine.n_open == 0


async def test_without_a_key_or_with_a_wrong_one_nobody_gets_in():
    async with http_client(FakeEngine("a"), api_key="right") as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}):
            response = await client.post("/v1/chat/completions", json=HELLO, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["type"] == "authentication_error"
            assert (await client.get("/v1/models", headers=headers)).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [{"authorization": "Bearer right"}, {"authorization": "bearer right"}, {"x-api-key": "right"}],
)
async def test_the_right_key_opens_from_either_header(headers):
    async with http_client(FakeEngine("a"), api_key="right") as client:
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
        answer = await client.post("/v1/chat/completions", json=HELLO, headers=headers)
    assert answer.status_code == 200


async def test_health_asks_for_no_key():
    async with http_client(FakeEngine("a"), api_key="right") as client:
        assert (await client.get("/health")).json()["status"] == "ok"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nope", 404), ("PUT", "/v1/models", 405), ("GET", "/v1/completions", 405)],
)
async def test_a_wrong_url_or_method_is_told_in_the_same_shape(method, path, status):
    async with http_client(FakeEngine("a")) as client:
        response = await client.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


REFUSED = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "response_format": {"type": "json_object"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy"},
    "web_search_options": {"search_context_size": "low"},
    "grammar": 'root ::= "a"',
    "json_schema": {"type": "object"},
    "lora": [{"id": 0, "scale": 1}],
    "chat_template": "{{ 1 }}",
    "logit_bias": {"hello": 1},
    "stream_options": {"include_usage": True},
    "top_logprobs": 3,
    "temperature": "warm",
    "top_p": 1.5,
    "n": 9,
    "max_tokens": 0,
    "stop": ["a"] * 17,
    "seed": 2**70,
    "messages": [],
    "model": 7,
}


@pytest.mark.parametrize("field", REFUSED)
async def test_what_cannot_be_honoured_is_refused_by_name(field):
    engine = FakeEngine("a")
    async with http_client(engine) as client:
        body = HELLO | {field: REFUSED[field]}
        response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["param"] == field
    assert engine.jobs == []


IGNORED = {
    "tools": [],
    "tool_choice": "auto",
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "user": "alice",
    "metadata": {"a": "b"},
    "store": False,
    "service_tier": "auto",
    "reasoning_effort": "low",
    "prediction": {"type": "content", "content": "x"},
    "parallel_tool_calls": True,
    "keep_alive": "5m",
    "from_the_future": {"a": [1]},
}


async def test_what_does_not_change_the_answer_is_taken():
    async with http_client(FakeEngine("a")) as client:
        response = await client.post("/v1/chat/completions", json=HELLO | IGNORED)
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x", "tool_call_id": "1"}, "messages.0.role"),
        ({"role": "king", "content": "x"}, "messages.0.role"),
        ({"role": "user", "content": None}, "messages.0.content"),
        ({"role": "user", "content": 5}, "messages.0.content"),
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, "messages.0.tool_calls"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": "data:"}]},
            "messages.0.content.0.type",
        ),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "messages.0.content.0.text"),
    ],
)
async def test_a_wrong_message_is_named_by_its_path(message, param):
    async with http_client(FakeEngine("a")) as client:
        response = await client.post("/v1/chat/completions", json=HELLO | {"messages": [message]})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"messages": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"model": "fake", "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"model": "fake", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "fake", "messages": [{"role": "user", "content": "a"}], "seed": 1'
        + b"0" * 5000
        + b"}",
        b'{"model": "fake", "messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
        b'{"model": "fake", "messages": [{"role": "user", "content": "a"}], "temperature": 1e999}',
        b'{"model": "fake", "messages": [{"role": "user", "content": "a"}], "logit_bias": {"1": NaN}}',
    ],
)
async def test_a_body_that_is_no_sound_json_is_a_bad_request(body):
    engine = FakeEngine("a")
    async with http_client(engine) as client:
        response = await client.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert engine.jobs == []
