"""A long prompt arrives while others decode: what they notice, and what the newcomer waits. Knows one load pattern."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from hyprstream.bench.bench import Bench
from hyprstream.bench.load import open_stream, visit
from hyprstream.bench.protocol import there_and_back
from hyprstream.bench.results import Goal, Result
from hyprstream.bench.servers import Target
from hyprstream.bench.statistics import Estimate, estimate, median, percentile

QUESTION = "A 4,000-token prompt arrives while the other slots decode: who waits how long?"
COLUMNS = (
    *("server", "p99 gap before ms", "p99 gap during ms", "during / before"),
    *("TTFT alone s", "TTFT beside others s", "beside / alone"),
)
LONG_PROMPT, QUICK_LONG_PROMPT = 4_000, 1_000
"""Tokens of the newcomer's prompt."""
BACKGROUND_PROMPT = 32
N_NEWCOMER_TOKENS = 8
N_EVENTS_BEFORE = 64
"""Events of each background stream, once all are decoding, that the undisturbed gaps are taken from."""
N_EVENTS_AFTER = 2
"""Events of each background stream after the newcomer's first token: the stall that ends with it is a gap of the disturbance."""


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One arrival. Times in seconds."""

    gaps_before: list[float]
    gaps_during: list[float]
    ttft_alone: float
    ttft_beside: float

    @property
    def gap_growth(self) -> float:
        return percentile(self.gaps_during, 99) / percentile(self.gaps_before, 99)

    @property
    def ttft_growth(self) -> float:
        return self.ttft_beside / self.ttft_alone


async def run(bench: Bench) -> Result:
    """A B B A: the newcomer alone, then beside `n_slots - 1` decoding streams."""
    measured: dict[str, list[Disturbance]] = {}
    async with bench.open() as targets:
        async for n_round in bench.rounds():
            for half, target in there_and_back(targets):
                async with bench.measuring(target.pid):
                    found = await _disturb(bench, target, (n_round, half))
                measured.setdefault(target.name, []).append(found)
        notes = bench.remarks(targets)
    return Result(
        "longprompt",
        QUESTION,
        COLUMNS,
        rows=tuple(_row(name, found) for name, found in measured.items()),
        goals=_goals(measured),
        notes=(*notes, f"the newcomer's prompt has {_long_prompt(bench)} tokens"),
        raw=tuple(_raw(name, d) for name, found in measured.items() for d in found),
    )


async def _disturb(bench: Bench, target: Target, key: tuple[int, int]) -> Disturbance:
    n_others = max(1, bench.options.n_slots - 1)
    n_long = _long_prompt(bench)
    bench.say(f"{target.name}: the newcomer alone")
    alone = await visit(target, bench.prompts(1, n_long, "alone", *key), n_tokens=N_NEWCOMER_TOKENS)
    bench.say(f"{target.name}: {n_others} others decode")
    # Longer than they will be needed: leaving the block ends them.
    n_tokens = bench.options.n_ctx - BACKGROUND_PROMPT - 1
    async with AsyncExitStack() as stack:
        others = [
            await stack.enter_async_context(open_stream(target, prompt, n_tokens=n_tokens))
            for prompt in bench.prompts(n_others, BACKGROUND_PROMPT, "others", *key)
        ]
        for other in others:
            await other.reach(1)
        started = max(other.times[0] for other in others)
        for other in others:
            await other.reach(len(other.times) + N_EVENTS_BEFORE)
        bench.say(f"{target.name}: the newcomer beside them")
        newcomer = await visit(
            target, bench.prompts(1, n_long, "newcomer", *key), n_tokens=N_NEWCOMER_TOKENS
        )
        for other in others:
            await other.reach(len(other.times) + N_EVENTS_AFTER)
    arrival = newcomer.answers[0]
    return Disturbance(
        gaps_before=[g for o in others for g in o.gaps_overlapping(started, arrival.sent_at)],
        gaps_during=[
            g for o in others for g in o.gaps_overlapping(arrival.sent_at, arrival.times[0])
        ],
        ttft_alone=alone.answers[0].ttft,
        ttft_beside=arrival.ttft,
    )


def _long_prompt(bench: Bench) -> int:
    wanted = QUICK_LONG_PROMPT if bench.options.is_quick else LONG_PROMPT
    return min(wanted, bench.options.n_ctx - N_NEWCOMER_TOKENS - 1)


def _row(name: str, found: list[Disturbance]) -> tuple[str, ...]:
    return (
        name,
        f"{1e3 * median([percentile(d.gaps_before, 99) for d in found]):.1f}",
        f"{1e3 * median([percentile(d.gaps_during, 99) for d in found]):.1f}",
        str(_gap_growth(found)),
        f"{median([d.ttft_alone for d in found]):.2f}",
        f"{median([d.ttft_beside for d in found]):.2f}",
        str(_ttft_growth(found)),
    )


def _goals(measured: dict[str, list[Disturbance]]) -> tuple[Goal, ...]:
    ours, *peers = measured
    found = measured[ours]
    return (
        Goal("p99 gap of the others, during over before", _gap_growth(found), at_most=3),
        *(
            Goal(f"{peer}'s p99 gap during over ours", _relief(found, measured[peer]), at_least=5)
            for peer in peers
        ),
        Goal("newcomer's TTFT, beside others over alone", _ttft_growth(found), at_most=1.5),
    )


def _gap_growth(found: list[Disturbance]) -> Estimate:
    return estimate([d.gap_growth for d in found])


def _ttft_growth(found: list[Disturbance]) -> Estimate:
    return estimate([d.ttft_growth for d in found])


def _relief(ours: list[Disturbance], theirs: list[Disturbance]) -> Estimate:
    pairs = zip(ours, theirs, strict=True)
    return estimate(
        [percentile(b.gaps_during, 99) / percentile(a.gaps_during, 99) for a, b in pairs]
    )


def _raw(name: str, d: Disturbance) -> dict[str, object]:
    return {
        "server": name,
        "gaps_before": d.gaps_before,
        "gaps_during": d.gaps_during,
        "ttft_alone": d.ttft_alone,
        "ttft_beside": d.ttft_beside,
    }
