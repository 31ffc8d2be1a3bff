"""Throughput over streams as a picture. The one door to matplotlib, which is an optional extra."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from hyprstream.bench.results import Report
from hyprstream.bench.statistics import estimate
from hyprstream.core.errors import Invalid


def require_matplotlib() -> None:
    """Fail before the measurements rather than after them.

    Raises:
        Invalid: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        hint = "pip install 'hyprstream[bench]'"
        raise Invalid("a plot needs matplotlib", param="plot", hint=hint)


def plot(report: Report, path: Path) -> None:
    """Write the `throughput` result as a PNG: tokens per second over streams, a line per server and prompt length.

    Raises:
        Invalid: matplotlib is missing, or the report has no such result.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    raw = next((r.raw for r in report.results if r.scenario == "throughput"), ())
    if not raw:
        raise Invalid("there is nothing to plot without `throughput`", param="plot")
    figure: Any = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for (server, n_prompt), points in _series(raw).items():
        xs = sorted(points)
        rates = [estimate(points[x]) for x in xs]
        values = [rate.value for rate in rates]
        below = [rate.value - rate.low for rate in rates]
        above = [rate.high - rate.value for rate in rates]
        label = f"{server}, {n_prompt}-token prompts"
        axes.errorbar(xs, values, yerr=(below, above), marker="o", capsize=3, label=label)
    axes.set_xlabel("streams")
    axes.set_ylabel("tokens per second, all streams")
    axes.set_ylim(bottom=0)
    axes.set_title(f"{report.machine.cpu}, {report.machine.n_cores} cores")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, format="png", dpi=120)


def _series(
    raw: Sequence[dict[str, object]],
) -> dict[tuple[str, int], dict[int, list[float]]]:
    """Rates by server and prompt length, then by number of streams."""
    series: dict[tuple[str, int], dict[int, list[float]]] = {}
    for point in cast("Sequence[dict[str, Any]]", raw):
        for server, visits in point["visits"].items():
            line = series.setdefault((server, point["n_prompt_tokens"]), {})
            line[point["n_streams"]] = [visit["tokens_per_second"] for visit in visits]
    return series
