"""Events in OpenAI's shapes, without a server."""

from hyprstream.core.chat import ChoiceFinished, ContentDelta, RequestFinished
from hyprstream.core.generation import (
    Alternative,
    FinishReason,
    Timings,
    TokenLogprob,
    Usage,
)
from hyprstream.server.openai.encode import ChatEncoder, CompletionEncoder, Head

HEAD = Head("id-1", 1700000000, "m", "fp")
EURO = "€".encode()
SPLIT = (TokenLogprob(1, EURO[:1], -0.1), TokenLogprob(2, EURO[1:] + b"!", -0.2))
"""Two tokens, the first of which ends inside a character."""


def finished(index: int, usage: Usage | None = None) -> ChoiceFinished:
    return ChoiceFinished(index, FinishReason.LENGTH, usage or Usage(), Timings())


def test_tokens_without_text_are_streamed_without_content():
    encoder = ChatEncoder(HEAD, n_choices=1, with_usage=False)
    chunk = encoder.chunk(ContentDelta(0, "", (TokenLogprob(1, b"", -0.1),)))
    [choice] = chunk["choices"]
    assert choice["delta"] == {}
    assert choice["logprobs"]["content"][0]["logprob"] == -0.1


def test_a_request_that_did_not_ask_for_usage_hears_nothing_of_it():
    encoder = ChatEncoder(HEAD, n_choices=1, with_usage=False)
    assert encoder.chunk(RequestFinished(Usage(1, 2), Timings())) is None


def test_half_a_character_keeps_its_bytes():
    encoder = ChatEncoder(HEAD, n_choices=1, with_usage=False)
    [choice] = encoder.chunk(ContentDelta(0, "€!", SPLIT))["choices"]
    assert [token["bytes"] for token in choice["logprobs"]["content"]] == [[0xE2], [0x82, 0xAC, 33]]
    assert choice["logprobs"]["content"][0]["token"] == "\ufffd"


def test_offsets_count_the_characters_that_were_complete():
    encoder = CompletionEncoder(HEAD, n_choices=1, with_usage=False)
    encoder.chunk(ContentDelta(0, "ab"))
    [choice] = encoder.chunk(ContentDelta(0, "€!", SPLIT))["choices"]
    assert choice["logprobs"]["text_offset"] == [2, 2]


def test_each_choice_has_offsets_of_its_own():
    encoder = CompletionEncoder(HEAD, n_choices=2, with_usage=False)
    encoder.chunk(ContentDelta(0, "abc"))
    [choice] = encoder.chunk(ContentDelta(1, "x", (TokenLogprob(1, b"x", -0.1),)))["choices"]
    assert choice["logprobs"]["text_offset"] == [0]


def test_a_probability_of_zero_is_a_number_in_json():
    never = Alternative(2, b"b", float("-inf"))
    encoder = CompletionEncoder(HEAD, n_choices=1, with_usage=False)
    delta = ContentDelta(0, "a", (TokenLogprob(1, b"a", -0.1, (never,)),))
    [choice] = encoder.chunk(delta)["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{"b": -9999.0, "a": -0.1}]


def test_the_whole_puts_interleaved_choices_in_order():
    encoder = ChatEncoder(HEAD, n_choices=2, with_usage=False)
    usage, timings = Usage(5, 3, 1), Timings(prompt_ms=2.0, predicted_ms=0.0)
    deltas = [ContentDelta(1, "x"), ContentDelta(0, "a"), ContentDelta(1, "y")]
    body = encoder.whole([*deltas, finished(1), finished(0), RequestFinished(usage, timings)])
    assert [choice["message"]["content"] for choice in body["choices"]] == ["a", "xy"]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["length", "length"]
    assert body["usage"]["total_tokens"] == 8
    assert body["timings"]["prompt_per_second"] == 2000.0
    assert body["timings"]["predicted_per_second"] == 0.0
