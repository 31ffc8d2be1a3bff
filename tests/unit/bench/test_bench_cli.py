"""What the command refuses before it measures anything."""

from pathlib import Path

import pytest

from hyprstream.bench import cli, plot
from hyprstream.bench.bench import Options
from hyprstream.core.errors import HyprstreamError, Invalid, NotFound


def test_counts_are_read_from_commas() -> None:
    assert cli._counts("1,2,16", "streams") == (1, 2, 16)
    assert cli._counts(None, "streams") == ()


@pytest.mark.parametrize("text", ["0", "1,-2", "one", "1,,2"])
def test_counts_below_one_or_no_numbers_are_refused(text: str) -> None:
    with pytest.raises(Invalid, match="expected counts like 1,2,4"):
        cli._counts(text, "streams")


def test_an_unknown_scenario_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Invalid, match="'troughput'") as raised:
        cli.bench(scenarios=["throughput", "troughput"])
    assert raised.value.hint is not None and "throughput" in raised.value.hint


def test_a_plot_without_matplotlib_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    with pytest.raises(Invalid, match="needs matplotlib"):
        cli.bench(url="http://127.0.0.1:9", plot_path=Path("plot.png"))


def test_two_servers_of_one_name_are_refused() -> None:
    with pytest.raises(Invalid, match="a name of its own"):
        cli._launchers(None, "http://127.0.0.1:9", ["a=http://x:1", "a=http://y:1"])


def test_a_peer_needs_a_url() -> None:
    with pytest.raises(Invalid, match="expected llama-server or NAME=URL"):
        cli._launchers(None, "http://127.0.0.1:9", ["vllm"])


def test_a_model_that_is_not_stored_is_not_measured() -> None:
    with pytest.raises(NotFound, match="smollm2"):
        cli._launchers(None, None, [])


def test_a_scenario_that_fails_leaves_a_note_and_an_unmet_goal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hyprstream.bench.bench import Bench
    from hyprstream.bench.scenarios import cancel

    async def fail(bench: Bench) -> None:
        raise HyprstreamError("the server is gone", hint="start it")

    monkeypatch.setattr(cancel, "run", fail)
    result = cli._run("cancel", Bench(Options(), (), None, say=lambda line: None))
    assert result.notes == ("the server is gone (start it)",)
    assert [goal.is_met for goal in result.goals] == [False]


@pytest.mark.parametrize("option", ["json_path", "plot_path"])
def test_a_result_with_nowhere_to_go_is_refused_before_anything_is_measured(
    tmp_path: Path, option: str
) -> None:
    path = tmp_path / "absent" / "result"
    with pytest.raises(Invalid, match="no directory"):
        cli.bench(url="http://127.0.0.1:9", **{option: path})


def test_a_plot_without_throughput_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(Invalid, match="nothing to plot"):
        cli.bench(scenarios=["cancel"], plot_path=tmp_path / "plot.png")
