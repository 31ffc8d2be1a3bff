"""Two servers' ways to say how busy they are."""

import pytest

from hyprstream.bench.occupancy import Occupancy, from_health, from_metrics


def test_our_health_names_slots_and_queue() -> None:
    body = b'{"status": "ok", "slots": {"total": 8, "busy": 3}, "waiting": 2}'
    assert from_health(body) == Occupancy(n_busy=3, n_waiting=2)


@pytest.mark.parametrize("body", [b'{"status": "ok"}', b"OK", b"[]", b'{"slots": 8, "waiting": 0}'])
def test_a_health_without_slots_is_somebody_elses(body: bytes) -> None:
    assert from_health(body) is None


def test_the_peers_gauges_are_read_among_other_metrics() -> None:
    text = (
        "# HELP llamacpp:requests_processing Number of requests processing.\n"
        "llamacpp:prompt_tokens_seconds 236.049\n"
        "llamacpp:requests_processing 4\n"
        "llamacpp:requests_deferred 1\n"
    )
    assert from_metrics(text) == Occupancy(n_busy=4, n_waiting=1)


def test_metrics_without_the_gauges_say_nothing() -> None:
    assert from_metrics("process_cpu_seconds_total 1.0\n") is None
