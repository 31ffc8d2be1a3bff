"""What streams of one visit add up to."""

import pytest

from hyprstream.bench.completions import Answer
from hyprstream.bench.load import Visit


def stream(sent_at: float, times: list[float], n_tokens: int | None = None) -> Answer:
    n = len(times) if n_tokens is None else n_tokens
    return Answer(sent_at, tuple(times), times[-1], "text", n_prompt_tokens=7, n_tokens=n)


def test_the_rate_counts_from_the_first_request_to_the_last_token() -> None:
    visit = Visit((stream(0.0, [1.0, 2.0]), stream(0.5, [3.0, 4.0])))
    assert visit.seconds == 4.0
    assert visit.tokens_per_second == 1.0
    assert visit.requests_per_second == 0.5


def test_the_steady_rate_counts_only_while_every_stream_decodes() -> None:
    early = stream(0.0, [1.0, 2.0, 3.0, 4.0])
    late = stream(0.0, [2.0, 3.0, 4.0, 5.0])
    assert Visit((early, late)).steady_tokens_per_second == 2.0  # 2 < t <= 4: two events of each


def test_several_tokens_in_one_event_count_as_several() -> None:
    assert Visit((stream(0.0, [1.0, 2.0, 3.0], n_tokens=12),)).steady_tokens_per_second == 4.0


def test_streams_that_never_decode_together_have_no_steady_rate() -> None:
    visit = Visit((stream(0.0, [1.0, 2.0]), stream(0.0, [3.0, 4.0])))
    assert visit.steady_tokens_per_second is None


def test_gaps_do_not_cross_streams() -> None:
    visit = Visit((stream(0.0, [1.0, 1.5]), stream(0.0, [9.0, 9.25])))
    assert visit.gaps == pytest.approx([0.5, 0.25])
    assert visit.token_counts == [(7, 2), (7, 2)]
