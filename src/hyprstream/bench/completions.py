"""OpenAI's `POST /v1/completions` as a benchmark uses it: token ids in, greedy text out, every answer equally long.

Knows the request and answer shapes; knows no load patterns.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hyprstream.bench.client import Event, Response, json_object
from hyprstream.core.errors import BackendError

PATH = "/v1/completions"
DONE = b"[DONE]"


def request_body(
    model: str, prompt: list[int], *, n_tokens: int, is_stream: bool = True
) -> dict[str, object]:
    """A request for exactly `n_tokens` greedy tokens. `ignore_eos` is llama-server's extension, vLLM has it too."""
    body: dict[str, object] = {
        "model": model,
        "prompt": prompt,
        "max_tokens": n_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    if is_stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer and its times (`perf_counter` seconds). A server may put several tokens into one event."""

    sent_at: float
    times: tuple[float, ...]
    """When each event that carried text arrived; never empty."""
    ended_at: float
    text: str
    n_prompt_tokens: int
    n_tokens: int
    """As the server counts them (`usage.completion_tokens`)."""

    @property
    def ttft(self) -> float:
        """Seconds from sending the request to the first text."""
        return self.times[0] - self.sent_at

    @property
    def gaps(self) -> list[float]:
        """Seconds between one text and the next."""
        return [later - earlier for earlier, later in pairwise(self.times)]

    @property
    def tokens_per_event(self) -> float:
        return self.n_tokens / len(self.times)


def answer(response: Response) -> Answer:
    """What a streamed response says.

    Raises:
        BackendError: the server refused, broke off, or does not report its usage.
    """
    if response.status != 200:
        raise BackendError(f"the server answered {response.status}: {response.body[:300]!r}")
    chunks = [
        (event.at, json_object(event.data)) for event in response.events if event.data != DONE
    ]
    for _, chunk in chunks:
        if "error" in chunk:
            raise BackendError(f"the server broke off: {chunk['error']}")
    texts = [(at, text) for at, chunk in chunks if (text := _text(chunk))]
    usage: Any = next((chunk["usage"] for _, chunk in reversed(chunks) if chunk.get("usage")), None)
    if not texts or usage is None:
        missing = "usage" if texts else "text"
        raise BackendError(f"a stream of {len(chunks)} events carried no {missing}")
    return Answer(
        sent_at=response.sent_at,
        times=tuple(at for at, _ in texts),
        ended_at=response.ended_at,
        text="".join(text for _, text in texts),
        n_prompt_tokens=int(usage["prompt_tokens"]),
        n_tokens=int(usage["completion_tokens"]),
    )


def carries_text(event: Event) -> bool:
    """Whether this event of a stream is a token or several."""
    return event.data != DONE and bool(_text(json_object(event.data)))


def _text(chunk: dict[str, Any]) -> str:
    choices: list[dict[str, Any]] = chunk.get("choices") or [{}]
    return choices[0].get("text") or ""
