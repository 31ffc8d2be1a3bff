"""Streams that decode together: what the server gives in all, and beside its peers. Knows one load pattern."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from hyprstream.bench.bench import Bench, Options
from hyprstream.bench.load import Visit, visit
from hyprstream.bench.protocol import ratios, there_and_back
from hyprstream.bench.results import Goal, Result
from hyprstream.bench.statistics import Estimate, median, percentile
from hyprstream.core.errors import Invalid

QUESTION = "How many tokens per second do n streams get in all?"
COLUMNS = (
    *("streams", "prompt", "server", "tok/s", "steady", "req/s"),
    *("TTFT ms p50/p99", "gap ms p50/p99/max", "ratio [95 % CI]", "same text"),
)
LEAST_RATIO = {1: 1.00, 2: 1.15, 3: 1.15, 5: 1.15, 6: 1.15, 8: 1.05}
"""Goals: tokens per second over the peer's, by number of streams, at the shortest prompt."""


@dataclass(slots=True)
class Point:
    """One combination of streams and prompt length, and what each server did with it."""

    n_streams: int
    n_prompt_tokens: int
    visits: dict[str, list[Visit]] = field(default_factory=dict[str, list[Visit]])


async def run(bench: Bench) -> Result:
    """A B B A at every point of every round."""
    points = list(_points(bench.options))
    async with bench.open() as targets:
        async for n_round in bench.rounds():
            for point in points:
                for half, target in there_and_back(targets):
                    prompts = bench.prompts(
                        point.n_streams, point.n_prompt_tokens, "throughput", n_round, half
                    )
                    async with bench.measuring(target.pid):
                        measured = await visit(target, prompts, n_tokens=bench.options.n_tokens)
                    point.visits.setdefault(target.name, []).append(measured)
        notes = bench.remarks(targets)
    names = [target.name for target in targets]
    outcomes = [_outcome(point, names) for point in points]
    return Result(
        "throughput",
        QUESTION,
        COLUMNS,
        rows=tuple(row for outcome in outcomes for row in outcome.rows),
        goals=tuple(_goals(outcomes, bench.options, names)),
        notes=(*notes, *(note for outcome in outcomes for note in outcome.notes)),
        raw=tuple(_raw(point) for point in points),
    )


def _points(options: Options) -> Iterator[Point]:
    """Every number of streams at the shortest prompt; the longer ones with one stream and with every slot busy."""
    shortest, *longer = sorted(options.prompt_tokens)
    for n_streams in options.streams:
        yield Point(n_streams, shortest)
    for n_tokens in longer:
        for n_streams in sorted({1, options.n_slots} & set(options.streams)):
            yield Point(n_streams, n_tokens)


@dataclass(frozen=True, slots=True)
class _Outcome:
    point: Point
    rows: tuple[tuple[str, ...], ...]
    ratios: dict[str, Estimate | None]
    """By peer; None where the comparison was refused."""
    notes: tuple[str, ...]


def _outcome(point: Point, names: list[str]) -> _Outcome:
    ours, *peers = names
    found: dict[str, Estimate | None] = {}
    notes: list[str] = []
    for peer in peers:
        try:
            found[peer] = ratios(
                point.visits[ours], point.visits[peer], lambda v: v.tokens_per_second
            )
        except Invalid as error:
            found[peer] = None
            notes.append(
                f"{point.n_streams} streams: {error.message} ({ours}, {peer}); {error.hint}"
            )
    rows = tuple(
        (*_row(point, name), _shown(found, name), _same_text(point, ours, name)) for name in names
    )
    return _Outcome(point, rows, found, tuple(notes))


def _row(point: Point, name: str) -> tuple[str, ...]:
    visits = point.visits[name]
    ttfts = [1e3 * ttft for v in visits for ttft in v.ttfts]
    gaps = [1e3 * gap for v in visits for gap in v.gaps]
    steady = [rate for v in visits if (rate := v.steady_tokens_per_second) is not None]
    return (
        str(point.n_streams),
        str(point.n_prompt_tokens),
        name,
        f"{median([v.tokens_per_second for v in visits]):.1f}",
        f"{median(steady):.1f}" if steady else "-",
        f"{median([v.requests_per_second for v in visits]):.2f}",
        f"{median(ttfts):.1f} / {percentile(ttfts, 99):.1f}",
        f"{median(gaps):.1f} / {percentile(gaps, 99):.1f} / {max(gaps):.1f}" if gaps else "-",
    )


def _shown(found: dict[str, Estimate | None], name: str) -> str:
    if name not in found:
        return ""
    ratio = found[name]
    return "refused" if ratio is None else str(ratio)


def _same_text(point: Point, ours: str, name: str) -> str:
    if name == ours:
        return ""
    pairs = zip(point.visits[ours], point.visits[name], strict=True)
    same = [
        a.text == b.text
        for one, two in pairs
        for a, b in zip(one.answers, two.answers, strict=True)
    ]
    return f"{sum(same)}/{len(same)}"


def _goals(outcomes: list[_Outcome], options: Options, names: list[str]) -> Iterator[Goal]:
    for outcome in outcomes:
        n_streams, n_prompt = outcome.point.n_streams, outcome.point.n_prompt_tokens
        if n_streams not in LEAST_RATIO or n_prompt != min(options.prompt_tokens):
            continue
        for peer in names[1:]:
            claim = f"tokens/s over {peer}'s at {n_streams} streams"
            yield Goal(claim, outcome.ratios[peer], at_least=LEAST_RATIO[n_streams])


def _raw(point: Point) -> dict[str, object]:
    return {
        "n_streams": point.n_streams,
        "n_prompt_tokens": point.n_prompt_tokens,
        "visits": {name: [_raw_visit(v) for v in visits] for name, visits in point.visits.items()},
    }


def _raw_visit(v: Visit) -> dict[str, object]:
    return {
        "seconds": v.seconds,
        "tokens_per_second": v.tokens_per_second,
        "steady_tokens_per_second": v.steady_tokens_per_second,
        "token_counts": v.token_counts,
        "ttfts": v.ttfts,
        "gaps": v.gaps,
        "texts": [a.text for a in v.answers],
    }
