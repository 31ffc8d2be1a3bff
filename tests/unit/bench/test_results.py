"""When a goal is met."""

import pytest

from hyprstream.bench.results import Goal
from hyprstream.bench.statistics import Estimate


def test_a_floor_is_met_only_if_the_whole_interval_is_above_it() -> None:
    assert Goal("faster", Estimate(1.2, 1.06, 1.3, 10), at_least=1.05).is_met
    assert not Goal("faster", Estimate(1.2, 1.04, 1.3, 10), at_least=1.05).is_met


def test_a_ceiling_is_met_only_if_the_whole_interval_is_below_it() -> None:
    assert Goal("sooner", Estimate(20, 10, 49, 10), at_most=50).is_met
    assert not Goal("sooner", Estimate(20, 10, 51, 10), at_most=50).is_met


def test_what_could_not_be_measured_is_not_met() -> None:
    assert not Goal("faster", None, at_least=1.0).is_met


def test_a_goal_without_a_bound_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="one bound"):
        assert Goal("vague", Estimate(1, 1, 1, 1)).is_met


def test_a_bound_is_written_with_its_sign_and_unit() -> None:
    assert Goal("", None, at_least=1.15).bound == "≥ 1.15"
    assert Goal("", None, at_most=100, unit="ms").bound == "≤ 100 ms"
