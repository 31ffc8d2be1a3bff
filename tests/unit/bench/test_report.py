"""What a person and a program read."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from hyprstream.bench import plot, report
from hyprstream.bench.machine import Machine
from hyprstream.bench.results import Goal, Report, Result
from hyprstream.bench.statistics import Estimate
from hyprstream.core.errors import Invalid

MACHINE = Machine("CPU X", 2, 4, ("avx2",), 8 * 2**30, 31.5, "Linux", "3.11", {"numpy": "2.4"})
RESULT = Result(
    "throughput",
    "How fast?",
    ("streams", "ratio"),
    (("8", "1.2 [1.1, 1.3]"),),
    goals=(
        Goal("at 8 streams", Estimate(1.2, 1.1, 1.3, 10), at_least=1.05),
        Goal("at 2 streams", None, at_least=1.15),
    ),
    notes=("2 of 40 measurements were disturbed",),
    raw=(
        {
            "n_streams": 8,
            "n_prompt_tokens": 32,
            "visits": {"ours": [{"tokens_per_second": 200.0}, {"tokens_per_second": 210.0}]},
        },
    ),
)
REPORT = Report(MACHINE, {"n_rounds": 5}, (RESULT,))


def shown() -> str:
    out = io.StringIO()
    report.show(Console(file=out, width=120), REPORT)
    return out.getvalue()


def test_the_machine_is_named_with_its_flags_libraries_and_bandwidth() -> None:
    text = shown()
    for part in ("CPU X, 2 cores, 4 threads", "avx2", "31.5 GB/s", "numpy 2.4"):
        assert part in text


def test_intervals_survive_rendering_although_brackets_are_markup() -> None:
    assert "1.2 [1.1, 1.3]" in shown()


def test_each_goal_has_its_bound_and_verdict() -> None:
    lines = shown().splitlines()
    met = next(line for line in lines if "at 8 streams" in line)
    unmet = next(line for line in lines if "at 2 streams" in line)
    assert met.split()[-1] == "met" and "≥ 1.05" in met
    assert unmet.split()[-2:] == ["not", "met"]
    assert "refused" in unmet


def test_the_json_document_has_every_measurement_and_verdict() -> None:
    document = json.loads(report.to_json(REPORT))
    assert document["machine"]["read_gb_per_second"] == 31.5
    [result] = document["results"]
    assert [goal["is_met"] for goal in result["goals"]] == [True, False]
    assert result["raw"][0]["visits"]["ours"][1]["tokens_per_second"] == 210.0


def test_a_report_with_an_unmet_goal_is_not_a_success() -> None:
    assert not REPORT.are_goals_met


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.png"
    plot.plot(REPORT, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_way_to_get_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    with pytest.raises(Invalid, match="needs matplotlib") as raised:
        plot.require_matplotlib()
    assert raised.value.hint == "pip install 'hyprstream[bench]'"


def test_there_is_nothing_to_draw_without_throughput(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(Invalid, match="nothing to plot"):
        plot.plot(Report(MACHINE, {}, ()), tmp_path / "plot.png")
