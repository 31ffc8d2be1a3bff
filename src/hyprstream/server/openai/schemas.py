"""The requests of OpenAI's API as they arrive: names and types. Ranges are the engine's, meanings are `decode`'s.

Types are strict, as OpenAI's are: `"0.5"` is not a number and `true` is not 1. Every optional field may be null. Fields that
are not named here stay in `model_extra`: `decode` refuses those that would change the answer and ignores the rest.
"""

from typing import Annotated, Literal, cast

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
)
from pydantic_core import PydanticCustomError

MAX_CHOICES = 8
MAX_PROMPTS = 64
MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_BIASES = 1024
MAX_MESSAGES = 2048
MAX_PARTS = 256
MAX_BREAKERS = 32

Bias = Annotated[float, Field(ge=-100, le=100)]


class ContentPart(BaseModel):
    """One part of a message. Only `text` parts are understood."""

    type: str
    text: str | None = None


def _as_parts(content: object) -> object:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is None or isinstance(content, list):
        return cast("list[object] | None", content)
    raise PydanticCustomError("content_type", "Input should be a string or a list of content parts")


class ChatMessage(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[
        Annotated[list[ContentPart], Field(max_length=MAX_PARTS, fail_fast=True)] | None,
        BeforeValidator(_as_parts, json_schema_input_type=str | list[ContentPart] | None),
    ] = None
    name: str | None = None


def _as_list(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


class StreamOptions(BaseModel):
    """What a stream carries besides the text."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


def _few_biases(biases: object) -> object:
    # Counted before they are looked at: a million wrong ones would be a million errors to write down.
    if isinstance(biases, dict) and len(cast("dict[str, object]", biases)) > MAX_BIASES:
        raise PydanticCustomError(
            "too_long", "Input should have at most {limit} entries", {"limit": MAX_BIASES}
        )
    return cast("object", biases)


class GenerationBody(BaseModel):
    """What both endpoints take. Unset sampling fields have the server's defaults, not OpenAI's 1.0."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The newer name of `max_tokens`; it wins if both are sent."""
    stop: Annotated[
        Annotated[list[str], Field(max_length=MAX_STOPS, fail_fast=True)] | None,
        BeforeValidator(_as_list, json_schema_input_type=str | list[str] | None),
    ] = None
    ignore_eos: bool | None = None

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: Annotated[
        float | None,
        Field(validation_alias=AliasChoices("repeat_penalty", "repetition_penalty")),
    ] = None
    repeat_last_n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: (
        Annotated[list[str], Field(max_length=MAX_BREAKERS, fail_fast=True)] | None
    ) = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    seed: int | None = None
    logit_bias: Annotated[dict[str, Bias] | None, BeforeValidator(_few_biases)] = None


class ChatCompletionBody(GenerationBody):
    """`POST /v1/chat/completions`."""

    messages: Annotated[
        list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    ]
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None


def _as_prompts(prompt: object) -> object:
    return [prompt] if isinstance(prompt, str) or _token_ids(prompt) else prompt


def _prompt(prompt: object) -> str | tuple[int, ...]:
    if isinstance(prompt, str):
        return prompt
    if tokens := _token_ids(prompt):
        return tokens
    raise PydanticCustomError("prompt_type", "Input should be a string or a list of token ids")


def _token_ids(prompt: object) -> tuple[int, ...] | None:
    # A bool is an int to Python, not to JSON.
    if not isinstance(prompt, list):
        return None
    tokens = cast("list[int]", prompt)
    return tuple(tokens) if all(type(token) is int for token in tokens) else None


Prompt = Annotated[
    str | tuple[int, ...], PlainValidator(_prompt, json_schema_input_type=str | list[int])
]


class CompletionBody(GenerationBody):
    """`POST /v1/completions`: raw prompts, texts or token ids."""

    prompt: Annotated[
        Annotated[list[Prompt], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)],
        BeforeValidator(
            _as_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]
        ),
    ]
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: int | None = None
