"""The official OpenAI client against the real model."""

import asyncio
import json
import random
import urllib.request
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from integration.conftest import Server

MODEL = "smollm2"
QUESTION = [{"role": "user", "content": "Name three colours of the rainbow."}]


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="dummy", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(server: Server) -> AsyncGenerator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def ask(client: OpenAI, **fields: object) -> ChatCompletion:
    arguments = {"model": MODEL, "messages": QUESTION, "max_tokens": 24, "temperature": 0, **fields}
    return client.chat.completions.create(**arguments)  # type: ignore[call-overload]


def stream(client: OpenAI, **fields: object) -> list[ChatCompletionChunk]:
    return list(ask(client, stream=True, **fields))  # type: ignore[arg-type]


def text(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    return "".join(
        choice.delta.content or ""
        for chunk in chunks
        for choice in chunk.choices
        if choice.index == index
    )


def test_the_model_is_listed_and_described(client: OpenAI) -> None:
    assert f"{MODEL}:main" in [model.id for model in client.models.list()]
    assert client.models.retrieve(f"{MODEL}:main") == client.models.retrieve(MODEL)
    assert client.models.retrieve(MODEL).object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_an_answer_has_text_usage_and_a_reason(client: OpenAI) -> None:
    answer = ask(client)
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_gives_the_same_text_as_one_piece(client: OpenAI) -> None:
    answer = ask(client)
    chunks = stream(client, stream_options={"include_usage": True})
    assert text(chunks) == answer.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == [
        answer.choices[0].finish_reason
    ]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert answer.usage is not None
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_same_seed_gives_the_same_text(client: OpenAI) -> None:
    def draw(seed: int) -> str | None:
        return ask(client, temperature=1.2, seed=seed).choices[0].message.content

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(4)}) > 1


def test_choices_share_one_prefill_and_differ(client: OpenAI) -> None:
    answer = ask(client, n=3, temperature=1.2, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
    chunks = stream(client, n=3, temperature=1.2, seed=5)
    assert {c.index for chunk in chunks for c in chunk.choices} == {0, 1, 2}


def test_log_probabilities_describe_the_text(client: OpenAI) -> None:
    choice = ask(client, logprobs=True, top_logprobs=3).choices[0]
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content
    assert "".join(item.token for item in content) == choice.message.content
    for item in content:
        assert len(item.top_logprobs) == 3
        assert item.logprob == pytest.approx(item.top_logprobs[0].logprob), "greedy takes the best"


def test_a_stop_string_is_never_part_of_the_text(client: OpenAI) -> None:
    whole = ask(client).choices[0].message.content
    assert whole
    stop = whole[len(whole) // 2 :][:5]
    answer = ask(client, stop=[stop]).choices[0]
    assert answer.message.content == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"
    assert text(stream(client, stop=stop)) == answer.message.content


def test_raw_completions_continue_each_prompt(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt=["One, two,", "The sun"], max_tokens=6, temperature=0, n=2, logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text == answer.choices[1].text
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens
    assert "".join(answer.choices[0].logprobs.tokens) == answer.choices[0].text


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(client, messages=[{"role": "user", "content": "word " * 9000}])
    assert refusal.value.code == "context_length_exceeded"
    assert "4096" in refusal.value.message


def test_what_is_not_honoured_is_refused_by_name(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(client, response_format={"type": "json_object"})
    assert refusal.value.param == "response_format"


async def test_the_async_client_streams_too(async_client: AsyncOpenAI) -> None:
    pieces: list[str] = []
    async with async_client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": "Say yes."}],
        max_tokens=400,
        temperature=0,
    ) as events:
        async for event in events:
            if event.type == "content.delta":
                pieces.append(event.delta)
        final = await events.get_final_completion()
    assert "".join(pieces) == final.choices[0].message.content


async def test_text_is_the_same_alone_and_in_company(async_client: AsyncOpenAI) -> None:
    async def count(n: int) -> str:
        answer = await async_client.completions.create(
            model=MODEL, prompt=f"{n}, {n + 1}, {n + 2},", max_tokens=8, temperature=0
        )
        return answer.choices[0].text

    alone = [await count(n) for n in range(4)]
    together = await asyncio.gather(*(count(n) for n in range(4)))
    # Float sums differ with the shape of a batch; counting is far from any tie.
    assert alone == together


async def test_clients_that_come_and_go_leave_every_slot_free(
    async_client: AsyncOpenAI, server: Server
) -> None:
    chance = random.Random(1)

    async def client(i: int) -> None:
        patience = chance.randrange(0, 6)
        request = async_client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"Tell me a story about the number {i}."}],
            max_tokens=200,
            stream=i % 4 != 0,
        )
        with_timeout = asyncio.timeout(0.05 * patience if i % 4 == 0 else 60)
        try:
            async with with_timeout:
                answer = await request
                if i % 4 == 0:
                    return
                async for _ in answer:  # type: ignore[union-attr]
                    patience -= 1
                    if patience < 0:
                        break
                await answer.close()  # type: ignore[union-attr]
        except TimeoutError:
            pass

    await asyncio.gather(*map(client, range(32)))
    async with asyncio.timeout(60):
        while (await health(server))["slots"]["busy"]:
            await asyncio.sleep(0.02)
    now = await health(server)
    assert (now["slots"], now["waiting"]) == ({"total": 8, "busy": 0}, 0)


async def health(server: Server) -> dict[str, Any]:
    def read() -> dict[str, Any]:
        with urllib.request.urlopen(f"{server.url}/health") as response:
            return json.load(response)

    return await asyncio.to_thread(read)
