"""OpenAI's requests to ours. Pure. Every field that would change the answer is honoured or refused; OpenAI's shape ends here."""

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from hyprstream.core.chat import ChatRequest, CompletionRequest, Message
from hyprstream.core.errors import Invalid
from hyprstream.core.generation import GenerationParams, SamplingParams
from hyprstream.core.refs import ModelRef
from hyprstream.server.openai.schemas import (
    ChatCompletionBody,
    ChatMessage,
    CompletionBody,
    ContentPart,
    GenerationBody,
)

Body = TypeVar("Body", bound=BaseModel)

BAN = -100.0
"""The bias that OpenAI documents as a ban of the token."""

_NOTHING: tuple[object, ...] = (None, False, 0, "", [], {})

_REFUSED: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "add_generation_prompt": (True,),
        "audio": _NOTHING,
        "chat_template": _NOTHING,
        "chat_template_kwargs": _NOTHING,
        "continue_final_message": _NOTHING,
        "dynatemp_exponent": _NOTHING,
        "dynatemp_range": _NOTHING,
        "echo": _NOTHING,
        "function_call": (None, "none", "auto"),
        "functions": _NOTHING,
        "grammar": _NOTHING,
        "guided_choice": _NOTHING,
        "guided_grammar": _NOTHING,
        "guided_json": _NOTHING,
        "guided_regex": _NOTHING,
        "include_stop_str_in_output": _NOTHING,
        "json_schema": _NOTHING,
        "lora": _NOTHING,
        "min_tokens": _NOTHING,
        "modalities": (None, [], ["text"]),
        "prompt_logprobs": (None, False, ""),
        "response_format": (None, {"type": "text"}),
        "stop_token_ids": _NOTHING,
        "structured_outputs": _NOTHING,
        "suffix": _NOTHING,
        "tool_choice": (None, "none", "auto"),
        "tools": _NOTHING,
        "top_n_sigma": (*_NOTHING, -1),
        "truncate_prompt_tokens": (*_NOTHING, -1),
        "web_search_options": _NOTHING,
    }
)
"""Fields that would change the answer, and the values with which they do not."""

_REFUSED_IN_MESSAGE = ("tool_calls", "function_call", "audio")

_SAMPLING = frozenset(SamplingParams.__dataclass_fields__) - {"logit_bias", "dry_sequence_breakers"}


def parse(body: type[Body], raw: bytes) -> Body:
    """The body as its schema has it.

    Raises:
        Invalid: it is not JSON, or a field has the wrong type; `param` is the field's dotted path.
    """
    try:
        return body.model_validate_json(raw)
    except ValidationError as errors:
        first = errors.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join(map(str, first["loc"]))
        raise Invalid(
            f"`{path}`: {first['msg']}" if path else first["msg"], param=path or None
        ) from None


def decode_chat(body: ChatCompletionBody, default_model: ModelRef | None) -> ChatRequest:
    """A conversation to continue.

    Raises:
        Invalid: a field cannot be honoured; `param` names it.
    """
    if body.top_logprobs and not body.logprobs:
        raise Invalid("`top_logprobs` needs `logprobs: true`", param="top_logprobs")
    return ChatRequest(
        model=_model(body, default_model),
        messages=tuple(_message(m, f"messages.{i}") for i, m in enumerate(body.messages)),
        params=_params(
            body,
            n_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        ),
    )


def decode_completion(body: CompletionBody, default_model: ModelRef | None) -> CompletionRequest:
    """Raw prompts to continue. Raises what `decode_chat` raises."""
    if body.best_of not in (None, body.n or 1):
        raise Invalid("`best_of` must equal `n`", param="best_of")
    return CompletionRequest(
        model=_model(body, default_model),
        prompts=tuple(body.prompt),
        params=_params(body, n_logprobs=body.logprobs),
    )


def wants_usage(body: GenerationBody) -> bool:
    """Whether the stream ends with a usage chunk."""
    return body.stream_options is not None and bool(body.stream_options.include_usage)


def _model(body: GenerationBody, default: ModelRef | None) -> ModelRef:
    if body.model is not None:
        return ModelRef.parse(body.model)
    if default is None:
        raise Invalid("`model` is missing", param="model", hint="GET /v1/models lists them")
    return default


def _params(body: GenerationBody, *, n_logprobs: int | None) -> GenerationParams:
    _refuse_what_changes_meaning(body)
    return GenerationParams(
        sampling=_sampling(body),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=tuple(body.stop or ()),
        n=body.n or 1,
        n_logprobs=n_logprobs,
        ignore_eos=bool(body.ignore_eos),
    )


def _refuse_what_changes_meaning(body: GenerationBody) -> None:
    if body.stream_options is not None and not body.stream:
        raise Invalid("`stream_options` needs `stream: true`", param="stream_options")
    for name, value in (body.model_extra or {}).items():
        if name in _REFUSED and value not in _REFUSED[name]:
            raise Invalid(f"`{name}` is not supported", param=name)


def _sampling(body: GenerationBody) -> SamplingParams:
    chosen = body.model_dump(include=set(_SAMPLING), exclude_none=True)
    if body.dry_sequence_breakers is not None:
        chosen["dry_sequence_breakers"] = tuple(body.dry_sequence_breakers)
    return SamplingParams(
        **chosen, logit_bias=tuple(_bias(*pair) for pair in (body.logit_bias or {}).items())
    )


def _bias(token: str, bias: float) -> tuple[int, float]:
    if not (token.isascii() and token.isdecimal() and len(token) < 10):
        raise Invalid(
            f"a key of `logit_bias` is {json.dumps(token[:40])}, which is not a token id",
            param="logit_bias",
        )
    return int(token), -math.inf if bias == BAN else bias


def _message(message: ChatMessage, path: str) -> Message:
    if message.role in ("tool", "function"):
        raise Invalid(f"messages of role {message.role} are not supported", param=f"{path}.role")
    for name in _REFUSED_IN_MESSAGE:
        if (message.model_extra or {}).get(name):
            raise Invalid(f"`{name}` is not supported", param=f"{path}.{name}")
    if message.content is None and message.role != "assistant":
        raise Invalid(f"a {message.role} message needs content", param=f"{path}.content")
    parts = message.content or ()
    texts = [_text(part, f"{path}.content.{i}") for i, part in enumerate(parts)]
    role = "system" if message.role == "developer" else message.role
    return Message(role, "\n".join(texts), message.name)


def _text(part: ContentPart, path: str) -> str:
    if part.type != "text":
        raise Invalid(
            f"content parts of type {json.dumps(part.type[:40])} are not supported",
            param=f"{path}.type",
        )
    if part.text is None:
        raise Invalid("a text part needs `text`", param=f"{path}.text")
    return part.text
