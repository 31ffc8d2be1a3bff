"""Raw completions, as OpenAI's own client sees them."""

from support.fake_engine import FakeEngine
from support.front_door import http_client, openai_client


async def test_a_completion_continues_the_prompt_as_it_is():
    engine = FakeEngine("b", "c")
    async with openai_client(engine) as client:
        answer = await client.completions.create(model="fake", prompt="a", stop=["x", "y"])
    assert answer.object == "text_completion"
    assert answer.choices[0].text == "bc"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 9
    assert engine.jobs[0].prompts == ("a",)
    assert engine.jobs[0].params.stop == ("x", "y")


async def test_every_form_of_prompt_is_taken():
    engine = FakeEngine("x")
    async with openai_client(engine) as client:
        for prompt in ("a", ["a", "b"], [1, 2], [[1, 2], [3]]):
            await client.completions.create(model="fake", prompt=prompt)
    assert [job.prompts for job in engine.jobs] == [("a",), ("a", "b"), ((1, 2),), ((1, 2), (3,))]


async def test_choices_are_numbered_prompt_by_prompt():
    async with openai_client(FakeEngine("x")) as client:
        answer = await client.completions.create(model="fake", prompt=["a", "b"], n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == ["x"] * 4
    assert answer.usage.prompt_tokens == 14


async def test_a_stream_says_the_same_as_the_whole():
    async with openai_client(FakeEngine("b", "c")) as client:
        chunks = [
            chunk
            async for chunk in await client.completions.create(
                model="fake", prompt="a", stream=True, stream_options={"include_usage": True}
            )
        ]
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "bc"
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None, None, "stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 2
    assert len({chunk.id for chunk in chunks}) == 1


async def test_legacy_log_probabilities_have_the_legacy_shape():
    async with openai_client(FakeEngine("é", "b")) as client:
        answer = await client.completions.create(model="fake", prompt="a", logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == ["é", "b"]
    assert logprobs.token_logprobs == [-0.5, -0.5]
    assert logprobs.text_offset == [0, 1]
    assert logprobs.top_logprobs == [{"é": -0.5}, {"b": -0.5}]


async def test_streamed_legacy_log_probabilities_keep_counting_characters():
    async with openai_client(FakeEngine("é", "b", "cd", "e")) as client:
        offsets = [
            offset
            async for chunk in await client.completions.create(
                model="fake", prompt="a", logprobs=0, stream=True
            )
            for choice in chunk.choices
            if choice.logprobs
            for offset in choice.logprobs.text_offset
        ]
    assert offsets == [0, 1, 2, 4]


async def test_what_would_change_the_answer_is_refused():
    for field, value in {"echo": True, "suffix": "x", "best_of": 3}.items():
        async with http_client(FakeEngine("x")) as client:
            body = {"model": "fake", "prompt": "a", field: value}
            response = await client.post("/v1/completions", json=body)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == field
