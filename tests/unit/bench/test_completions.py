"""What is read out of a stream of completion chunks."""

import json

import pytest

from hyprstream.bench.client import Event, Response
from hyprstream.bench.completions import answer, request_body
from hyprstream.core.errors import BackendError

USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}


def response(*chunks: dict[str, object], status: int = 200) -> Response:
    events = [Event(1.0 + n, json.dumps(chunk).encode()) for n, chunk in enumerate(chunks)]
    events.append(Event(99.0, b"[DONE]"))
    return Response(status, b"", tuple(events), sent_at=0.5, ended_at=99.0)


def text(piece: str) -> dict[str, object]:
    return {"choices": [{"text": piece}]}


def test_times_are_those_of_events_with_text_and_counts_are_the_servers() -> None:
    found = answer(response(text(""), text("ab"), text("cd"), USAGE))
    assert (found.text, found.times, found.n_tokens) == ("abcd", (2.0, 3.0), 4)
    assert found.ttft == 1.5
    assert found.gaps == [1.0]
    assert found.tokens_per_event == 2.0


def test_the_usage_may_come_with_the_last_text() -> None:
    assert answer(response({**text("a"), "usage": USAGE["usage"]})).n_prompt_tokens == 3


def test_a_refusal_is_reported_with_its_status() -> None:
    with pytest.raises(BackendError, match="429"):
        answer(response(status=429))


def test_an_error_in_the_middle_of_a_stream_is_reported() -> None:
    with pytest.raises(BackendError, match="broke off: out of memory"):
        answer(response(text("a"), {"error": "out of memory"}))


@pytest.mark.parametrize(("chunk", "missing"), [(text("a"), "usage"), (USAGE, "text")])
def test_a_stream_that_cannot_be_counted_is_refused(chunk: dict[str, object], missing: str) -> None:
    with pytest.raises(BackendError, match=f"no {missing}"):
        answer(response(chunk))


def test_a_request_is_greedy_and_of_fixed_length() -> None:
    body = request_body("m", [1, 2], n_tokens=8)
    assert (body["temperature"], body["max_tokens"], body["ignore_eos"]) == (0, 8, True)
    assert body["stream_options"] == {"include_usage": True}
    assert "stream" not in request_body("m", [1], n_tokens=8, is_stream=False)
