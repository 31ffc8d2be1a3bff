"""The dialect-free chat API: messages in, events out. OpenAI's, Ollama's and Anthropic's shapes exist only in `server`."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal

from hyprstream.core.generation import (
    FinishReason,
    GenerationParams,
    Timings,
    TokenLogprob,
    Usage,
)
from hyprstream.core.refs import ModelRef

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to continue."""

    model: ModelRef
    messages: tuple[Message, ...]
    params: GenerationParams = field(default_factory=GenerationParams)


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """Raw prompts to continue, without a chat template. Text, or token ids taken as they are."""

    model: ModelRef
    prompts: tuple[str | tuple[int, ...], ...]
    params: GenerationParams = field(default_factory=GenerationParams)


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More text of one choice. Never empty unless it carries log probabilities of tokens without text of their own."""

    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ChoiceFinished:
    """A choice has ended; nothing more comes for this index."""

    index: int
    reason: FinishReason
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class RequestFinished:
    """The last event of a stream: the request's usage (the prompt counted once, all choices summed)."""

    usage: Usage
    timings: Timings
    """Of the slowest choice."""


ChatEvent = ContentDelta | ChoiceFinished | RequestFinished
"""What a chat or completion stream consists of, in order: deltas, one end per choice, one end of the request."""

ChatStream = AsyncGenerator[ChatEvent]
