"""Chat completions, as OpenAI's own client and a byte-exact reader see them."""

import asyncio
import json

import pytest
from openai import APIError, AsyncOpenAI, OpenAI

from hyprstream.core.errors import BackendError
from hyprstream.core.generation import SamplingParams
from hyprstream.core.refs import ModelRef
from support.fake_engine import FakeEngine
from support.front_door import HELLO, http_client, openai_client, serving

USER = {"role": "user", "content": "Hello"}


async def text_of(client: AsyncOpenAI, **request: object) -> dict[int, str]:
    texts: dict[int, str] = {}
    async with await client.chat.completions.create(
        model="fake", messages=[USER], stream=True, **request
    ) as stream:
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    return texts


async def test_a_completion_has_text_reason_usage_and_timings():
    async with openai_client(FakeEngine("Hel", "lo", "!")) as client:
        answer = await client.chat.completions.create(model="fake", messages=[USER])
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.model == "fake"
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == "Hello!"
    assert choice.message.refusal is None
    assert choice.finish_reason == "stop"
    assert choice.logprobs is None
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 3)
    assert answer.usage.total_tokens == 10
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert answer.model_extra["timings"] == {
        "cache_n": 2,
        "prompt_n": 5,
        "prompt_ms": 10.0,
        "prompt_per_second": 500.0,
        "predicted_n": 3,
        "predicted_ms": 20.0,
        "predicted_per_second": 150.0,
    }


async def test_every_answer_has_an_id_of_its_own():
    async with openai_client(FakeEngine("a")) as client:
        create = client.chat.completions.create
        ids = {(await create(model="fake", messages=[USER])).id for _ in range(3)}
    assert len(ids) == 3


async def test_a_stream_says_the_same_as_the_whole():
    async with openai_client(FakeEngine("Hel", "lo", "!")) as client:
        assert await text_of(client) == {0: "Hello!"}


async def test_choices_are_streamed_side_by_side():
    async with openai_client(FakeEngine("a", "b")) as client:
        assert await text_of(client, n=3) == {0: "ab", 1: "ab", 2: "ab"}
        whole = await client.chat.completions.create(model="fake", messages=[USER], n=3)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert whole.usage.completion_tokens == 6
    assert whole.usage.prompt_tokens == 7


async def test_the_synchronous_client_reads_a_stream():
    def ask(url: str) -> str:
        with (
            OpenAI(base_url=f"{url}/oai/v1", api_key="unused", max_retries=0) as client,
            client.chat.completions.create(model="fake", messages=[USER], stream=True) as stream,
        ):
            return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)

    async with serving(FakeEngine("Hel", "lo")) as url:
        assert await asyncio.to_thread(ask, url) == "Hello"


async def test_log_probabilities_come_with_their_alternatives():
    async with openai_client(FakeEngine("é")) as client:
        answer = await client.chat.completions.create(
            model="fake", messages=[USER], logprobs=True, top_logprobs=2
        )
    [token] = answer.choices[0].logprobs.content
    assert (token.token, token.bytes, token.logprob) == ("é", [0xC3, 0xA9], -0.5)
    assert [top.token for top in token.top_logprobs] == ["é", "\ufffd"]
    assert token.top_logprobs[1].logprob == -9999.0


async def test_streamed_log_probabilities_are_those_of_the_whole():
    async with openai_client(FakeEngine("a", "b")) as client:
        request = {"model": "fake", "messages": [USER], "logprobs": True}
        whole = await client.chat.completions.create(**request)
        streamed = [
            token
            async for chunk in await client.chat.completions.create(**request, stream=True)
            for choice in chunk.choices
            if choice.logprobs
            for token in choice.logprobs.content
        ]
    assert streamed == whole.choices[0].logprobs.content


async def test_max_completion_tokens_wins_over_max_tokens_and_ends_with_length():
    engine = FakeEngine("a", "b", "c")
    async with openai_client(engine) as client:
        answer = await client.chat.completions.create(
            model="fake", messages=[USER], max_tokens=3, max_completion_tokens=2
        )
    assert answer.choices[0].message.content == "ab"
    assert answer.choices[0].finish_reason == "length"


async def test_what_was_asked_reaches_the_engine():
    engine = FakeEngine("a")
    async with openai_client(engine) as client:
        await client.chat.completions.create(
            model="fake",
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                {"role": "assistant", "content": None},
                {"role": "user", "content": "there"},
            ],
            temperature=0.5,
            top_p=0.9,
            seed=3,
            stop="END",
            logit_bias={"5": 2, "6": -100},
            extra_body={"top_k": 7, "repetition_penalty": 1.1, "min_p": 0.1},
        )
    [job] = engine.jobs
    assert job.prompts[0] == "system: Be brief.\nuser: Hi\nassistant: \nuser: there\n"
    assert job.params.stop == ("END",)
    assert job.params.sampling == SamplingParams(
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.1,
        repeat_penalty=1.1,
        seed=3,
        logit_bias=((5, 2.0), (6, float("-inf"))),
    )


async def test_an_unset_field_has_the_default_of_the_server():
    engine = FakeEngine("a")
    async with openai_client(engine) as client:
        await client.chat.completions.create(model="fake", messages=[USER])
    assert engine.jobs[0].params.sampling == SamplingParams()


async def test_a_request_without_a_model_gets_the_default_one():
    body = {"messages": [USER]}
    async with http_client(FakeEngine("a"), default_model=ModelRef("fake")) as client:
        assert (await client.post("/v1/chat/completions", json=body)).json()["model"] == "fake"
    async with http_client(FakeEngine("a")) as client:
        refused = await client.post("/v1/chat/completions", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "model"


async def test_a_failure_in_mid_stream_is_an_event_and_not_a_silent_end():
    async with openai_client(FakeEngine("a", fails=BackendError("at 0x7f12"))) as client:
        with pytest.raises(APIError) as caught:
            await text_of(client)
    assert caught.value.body["type"] == "server_error"
    assert "0x7f12" not in str(caught.value.body)


GOLDEN = """\
data: {HEAD,"choices":[{"index":0,"delta":{"role":"assistant","content":null},"logprobs":null,"finish_reason":null}],"usage":null}

data: {HEAD,"choices":[{"index":0,"delta":{"content":"Hel"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {HEAD,"choices":[{"index":0,"delta":{"content":"lo"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {HEAD,"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null,"timings":TIMINGS}

data: {HEAD,"choices":[],"usage":USAGE,"timings":TIMINGS}

data: [DONE]

"""


async def test_the_stream_is_byte_for_byte_this():
    body = HELLO | {"stream": True, "stream_options": {"include_usage": True}}
    async with http_client(FakeEngine("Hel", "lo")) as client:
        response = await client.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    first = json.loads(response.text.split("\n")[0].removeprefix("data: "))
    head = json.dumps({k: first[k] for k in list(first)[:5]}, separators=(",", ":"))[1:-1]
    assert head == (
        f'"id":"{first["id"]}","object":"chat.completion.chunk","created":{first["created"]},'
        f'"model":"fake","system_fingerprint":"{first["system_fingerprint"]}"'
    )
    timings = (
        '{"cache_n":2,"prompt_n":5,"prompt_ms":10.0,"prompt_per_second":500.0,'
        '"predicted_n":2,"predicted_ms":20.0,"predicted_per_second":100.0}'
    )
    usage = (
        '{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9,'
        '"prompt_tokens_details":{"cached_tokens":2,"audio_tokens":0},'
        '"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
        '"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
    )
    golden = GOLDEN.replace("HEAD", head).replace("TIMINGS", timings).replace("USAGE", usage)
    assert response.text == golden


async def test_no_chunk_has_usage_unless_it_is_asked_for():
    async with http_client(FakeEngine("a")) as client:
        response = await client.post("/v1/chat/completions", json=HELLO | {"stream": True})
    assert '"usage"' not in response.text
    assert response.text.endswith("data: [DONE]\n\n")
