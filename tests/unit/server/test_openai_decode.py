"""OpenAI's requests in our words, without a server."""

import math

import pytest

from hyprstream.core.errors import Invalid
from hyprstream.core.generation import SamplingParams
from hyprstream.core.refs import ModelRef
from hyprstream.server.openai.decode import decode_chat, decode_completion, parse
from hyprstream.server.openai.schemas import ChatCompletionBody, CompletionBody, GenerationBody

SAMPLING_OF_ITS_OWN_SHAPE = {"logit_bias", "dry_sequence_breakers"}


def chat(text: str) -> ChatCompletionBody:
    return parse(
        ChatCompletionBody, b'{"messages":[{"role":"user","content":"a"}],%b}' % text.encode()
    )


def test_every_sampling_parameter_can_be_asked_for():
    assert set(SamplingParams.__dataclass_fields__) <= set(GenerationBody.model_fields)


def test_a_sampling_parameter_that_is_null_has_its_default():
    fields = ",".join(f'"{name}":null' for name in SamplingParams.__dataclass_fields__)
    request = decode_chat(chat(fields), ModelRef("m"))
    assert request.params.sampling == SamplingParams()


def test_dry_breakers_and_biases_arrive_as_values():
    body = chat('"dry_sequence_breakers":["x"],"logit_bias":{"3":-100,"4":1.5}')
    sampling = decode_chat(body, ModelRef("m")).params.sampling
    assert sampling.dry_sequence_breakers == ("x",)
    assert sampling.logit_bias == ((3, -math.inf), (4, 1.5))


@pytest.mark.parametrize("key", ["-1", "1.5", "", "x", "1e3", "٣", "9" * 30])
def test_a_key_of_logit_bias_is_a_token_id(key):
    with pytest.raises(Invalid) as caught:
        decode_chat(chat(f'"logit_bias":{{"{key}":1}}'), ModelRef("m"))
    assert caught.value.param == "logit_bias"


def test_more_biases_than_anyone_needs_are_refused_before_they_are_looked_at():
    biases = ",".join(f'"{i}":[]' for i in range(2000))
    with pytest.raises(Invalid, match="at most 1024"):
        chat(f'"logit_bias":{{{biases}}}')


def test_text_parts_are_joined_by_lines():
    body = parse(
        ChatCompletionBody,
        b'{"messages":[{"role":"user","content":[{"type":"text","text":"a"},'
        b'{"type":"text","text":"b"}],"name":"al"}]}',
    )
    [message] = decode_chat(body, ModelRef("m")).messages
    assert (message.content, message.name) == ("a\nb", "al")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"prompt":[]}', "prompt"),
        (b'{"prompt":[[]]}', "prompt.0"),
        (b'{"prompt":[1,"a"]}', "prompt.0"),
        (b'{"prompt":["a",[1,true]]}', "prompt.1"),
        (b'{"prompt":{}}', "prompt"),
        (b"{}", "prompt"),
        (b'{"prompt":"a","stop":["x",1]}', "stop.1"),
        (b'{"prompt":"a","stream_options":{"include_usage":1}}', "stream_options.include_usage"),
        (b'{"prompt":"a","logprobs":true}', "logprobs"),
        (b'{"prompt":"a","stream":"yes"}', "stream"),
    ],
)
def test_a_wrong_type_is_named_by_its_path(body, param):
    with pytest.raises(Invalid) as caught:
        parse(CompletionBody, body)
    assert caught.value.param == param


def test_best_of_that_equals_n_changes_nothing():
    body = parse(CompletionBody, b'{"prompt":"a","n":2,"best_of":2}')
    assert decode_completion(body, ModelRef("m")).params.n == 2
