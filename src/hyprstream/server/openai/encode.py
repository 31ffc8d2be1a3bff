"""Our events in OpenAI's shapes. Pure: an event goes in, a value that JSON can hold comes out.

The shapes are those of OpenAI's API reference, "chat completion (chunk) object" and "completion object", with two additions
that clients of llama-server read: `timings`, and `usage.prompt_tokens_details`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hyprstream.core.chat import ChatEvent, ChoiceFinished, ContentDelta, RequestFinished
from hyprstream.core.generation import Alternative, Timings, TokenLogprob, Usage

Json = dict[str, object]

LEAST_LOGPROB = -9999.0
"""What OpenAI writes for a probability of zero, as JSON has no infinity."""


@dataclass(frozen=True, slots=True)
class Head:
    """What everything sent for one request repeats."""

    id: str
    created: int
    """Seconds since the epoch."""
    model: str
    fingerprint: str

    def of(self, object_: str, choices: Sequence[Json]) -> Json:
        """An object of this kind, with these choices."""
        return {
            "id": self.id,
            "object": object_,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


@dataclass(slots=True)
class _Choice:
    """One choice as it is put together from its events."""

    texts: list[str] = field(default_factory=list[str])
    deltas: list[ContentDelta] = field(default_factory=list[ContentDelta])
    finish_reason: str | None = None


class ChatEncoder:
    """Writes down the answer to `POST /v1/chat/completions`."""

    def __init__(self, head: Head, *, n_choices: int, with_usage: bool) -> None:
        self._head = head
        self._n_choices = n_choices
        self._with_usage = with_usage

    def opening(self) -> list[Json]:
        """A chunk per choice that says who speaks."""
        delta: Json = {"role": "assistant", "content": None}
        return [self._chunk(_chat_choice(index, delta)) for index in range(self._n_choices)]

    def chunk(self, event: ChatEvent) -> Json | None:
        """The chunk of one event. Content is never empty; usage comes last, if asked for."""
        match event:
            case ContentDelta(index, text, logprobs):
                delta: Json = {"content": text} if text else {}
                return self._chunk(_chat_choice(index, delta, _chat_logprobs(logprobs)))
            case ChoiceFinished(index, reason, usage, timings):
                ended = self._chunk(_chat_choice(index, {}, finish_reason=reason))
                return ended | {"timings": _timings(usage, timings)}
            case RequestFinished(usage, timings):
                return self._chunk() | _totals(usage, timings) if self._with_usage else None

    def whole(self, events: Sequence[ChatEvent]) -> Json:
        """The whole completion."""
        choices, finished = _collect(events, self._n_choices)
        body = self._head.of("chat.completion", [_whole_chat(*c) for c in enumerate(choices)])
        return body | {"service_tier": "default"} | _totals(finished.usage, finished.timings)

    def _chunk(self, *choices: Json) -> Json:
        chunk = self._head.of("chat.completion.chunk", choices)
        return chunk | {"usage": None} if self._with_usage else chunk


class CompletionEncoder:
    """Writes down the answer to `POST /v1/completions`."""

    def __init__(self, head: Head, *, n_choices: int, with_usage: bool) -> None:
        self._head = head
        self._n_choices = n_choices
        self._with_usage = with_usage
        self._offsets = [0] * n_choices

    def opening(self) -> list[Json]:
        """Nothing: the first chunk is the first text."""
        return []

    def chunk(self, event: ChatEvent) -> Json | None:
        """The chunk of one event."""
        match event:
            case ContentDelta(index, text):
                return self._chunk(_text_choice(index, text, self._logprobs(event)))
            case ChoiceFinished(index, reason, usage, timings):
                ended = self._chunk(_text_choice(index, "", finish_reason=reason))
                return ended | {"timings": _timings(usage, timings)}
            case RequestFinished(usage, timings):
                return self._chunk() | _totals(usage, timings) if self._with_usage else None

    def whole(self, events: Sequence[ChatEvent]) -> Json:
        """The whole completion."""
        choices, finished = _collect(events, self._n_choices)
        body = self._head.of("text_completion", [self._whole(*c) for c in enumerate(choices)])
        return body | _totals(finished.usage, finished.timings)

    def _whole(self, index: int, choice: _Choice) -> Json:
        logprobs = _concatenated([part for d in choice.deltas if (part := self._logprobs(d))])
        return _text_choice(index, "".join(choice.texts), logprobs, choice.finish_reason)

    def _chunk(self, *choices: Json) -> Json:
        chunk = self._head.of("text_completion", choices)
        return chunk | {"usage": None} if self._with_usage else chunk

    def _logprobs(self, delta: ContentDelta) -> dict[str, list[object]] | None:
        offset = self._offsets[delta.index]
        self._offsets[delta.index] += len(delta.text)
        return _legacy_logprobs(delta.logprobs, offset) if delta.logprobs else None


def _collect(events: Iterable[ChatEvent], n: int) -> tuple[list[_Choice], RequestFinished]:
    choices = [_Choice() for _ in range(n)]
    for event in events:
        match event:
            case ContentDelta(index, text):
                choices[index].texts.append(text)
                choices[index].deltas.append(event)
            case ChoiceFinished(index, reason):
                choices[index].finish_reason = reason
            case RequestFinished():
                return choices, event
    raise AssertionError("a stream of events ends with the end of the request")


def _chat_choice(
    index: int, delta: Json, logprobs: Json | None = None, finish_reason: str | None = None
) -> Json:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def _text_choice(
    index: int,
    text: str,
    logprobs: Mapping[str, object] | None = None,
    finish_reason: str | None = None,
) -> Json:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _whole_chat(index: int, choice: _Choice) -> Json:
    logprobs = [logprob for delta in choice.deltas for logprob in delta.logprobs]
    return {
        "index": index,
        "message": {
            "role": "assistant",
            "content": "".join(choice.texts),
            "refusal": None,
            "annotations": [],
        },
        "logprobs": _chat_logprobs(logprobs),
        "finish_reason": choice.finish_reason,
    }


def _chat_logprobs(logprobs: Sequence[TokenLogprob]) -> Json | None:
    if not logprobs:
        return None
    return {
        "content": [
            _token(logprob) | {"top_logprobs": [_token(top) for top in logprob.top]}
            for logprob in logprobs
        ],
        "refusal": None,
    }


def _token(token: TokenLogprob | Alternative) -> Json:
    return {
        "token": _text(token.piece),
        "bytes": list(token.piece),
        "logprob": _finite(token.logprob),
    }


def _legacy_logprobs(logprobs: Sequence[TokenLogprob], offset: int) -> dict[str, list[object]]:
    # A token may end inside a character: count the characters that were complete before it.
    pieces = [logprob.piece for logprob in logprobs]
    before = [b"".join(pieces[:i]).decode(errors="ignore") for i in range(len(pieces))]
    return {
        "tokens": [_text(logprob.piece) for logprob in logprobs],
        "token_logprobs": [_finite(logprob.logprob) for logprob in logprobs],
        "top_logprobs": [_best(logprob) for logprob in logprobs],
        "text_offset": [offset + len(text) for text in before],
    }


def _best(logprob: TokenLogprob) -> Json:
    # The chosen token is always among them, as in OpenAI's answers.
    return {_text(token.piece): _finite(token.logprob) for token in (*logprob.top, logprob)}


def _concatenated(parts: Sequence[dict[str, list[object]]]) -> Json | None:
    if not parts:
        return None
    return {name: [x for part in parts for x in part[name]] for name in parts[0]}


def _text(piece: bytes) -> str:
    return piece.decode(errors="replace")


def _finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)


def _totals(usage: Usage, timings: Timings) -> Json:
    return {
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "timings": _timings(usage, timings),
    }


def _timings(usage: Usage, timings: Timings) -> Json:
    computed = usage.prompt_tokens - usage.cached_tokens
    return {
        "cache_n": usage.cached_tokens,
        "prompt_n": computed,
        "prompt_ms": timings.prompt_ms,
        "prompt_per_second": _per_second(computed, timings.prompt_ms),
        "predicted_n": usage.completion_tokens,
        "predicted_ms": timings.predicted_ms,
        "predicted_per_second": _per_second(usage.completion_tokens, timings.predicted_ms),
    }


def _per_second(n: int, ms: float) -> float:
    return n / ms * 1e3 if ms > 0 else 0.0
