"""What batches cost, learned from those that ran."""

import pytest

from hyprstream.engine.costs import BUCKET, DEFAULT_PREFILL_MS, CostModel


def test_a_prompt_token_costs_the_default_until_one_was_measured() -> None:
    assert CostModel().prefill_ms(0) == DEFAULT_PREFILL_MS


def test_the_rise_of_prefill_with_depth_is_the_cost_of_attention() -> None:
    costs = CostModel()
    costs.observe_prefill(100, 0, 200.0)
    costs.observe_prefill(100, 4 * BUCKET, 400.0)
    assert costs.attention_ms == pytest.approx(2.0 / (4 * BUCKET))
    assert costs.prefill_ms(2 * BUCKET) == pytest.approx(3.0)


def test_decoding_costs_its_base_and_the_deepest_for_each() -> None:
    costs = CostModel()
    costs.observe_prefill(100, 0, 200.0)
    costs.observe_prefill(100, 4 * BUCKET, 400.0)
    costs.observe_decode(8, 0, 30.0)
    assert costs.decode_ms(8, 4 * BUCKET) == pytest.approx(30.0 + 8 * 2.0)
    assert costs.decode_ms(4, 0) == pytest.approx(15.0), "guessed from the nearest number known"


def test_newer_measurements_count_more() -> None:
    costs = CostModel()
    for ms in (10.0, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0):
        costs.observe_decode(1, 0, ms)
    assert 18.0 < costs.decode_ms(1, 0) < 20.0


def test_a_handful_of_tokens_says_nothing_about_the_rate() -> None:
    costs = CostModel()
    costs.observe_prefill(1, 0, 30.0)
    assert costs.prefill_ms(0) == DEFAULT_PREFILL_MS
