"""What the server adds to a bare decode loop on the same engine. Knows the server and the loop."""

from dataclasses import dataclass, field

from hyprstream.bench.bench import Bench
from hyprstream.bench.load import Visit, visit
from hyprstream.bench.protocol import require_same_work
from hyprstream.bench.rawloop import RawLoop, RawRun, raw_loop
from hyprstream.bench.results import Goal, Result
from hyprstream.bench.servers import Target
from hyprstream.bench.statistics import Estimate, estimate, median
from hyprstream.core.errors import Invalid

QUESTION = "What do HTTP, scheduling and sampling cost on top of a bare llama_decode loop?"
COLUMNS = ("measure", "server", "bare loop", "server's", "difference [95 % CI]", "same text")
MOST_TTFT_MS = 1.0
MOST_LOSS_PERCENT = 3.0
N_TTFT_PROBES = 8
"""Short requests in a row; their median is one measurement."""
N_PROBE_TOKENS = 4
"""Enough for some text: a single token can be a part of a character, which no server sends."""


@dataclass(slots=True)
class Pairs:
    """Measurements with the same prompts, made one right after the other."""

    ttft_ms: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """Bare loop, server."""
    rates: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """Tokens per second while every stream decodes: bare loop, server."""
    is_same_text: list[bool] = field(default_factory=list[bool])

    @property
    def added_ms(self) -> Estimate:
        return estimate([served - bare for bare, served in self.ttft_ms])

    @property
    def lost_percent(self) -> Estimate:
        return estimate([100 * (1 - served / bare) for bare, served in self.rates])


async def run(bench: Bench) -> Result:
    """A B B A between the bare loop and each server.

    Raises:
        Invalid: there is no model file the bare loop could load.
    """
    if bench.model_path is None:
        raise Invalid("`overhead` needs the model's file", hint="--model smollm2 or a .gguf path")
    n_streams, n_prompt = bench.options.n_slots, min(bench.options.prompt_tokens)
    measured: dict[str, Pairs] = {}
    notes: list[str] = []
    async with bench.open() as targets, raw_loop(bench.model_path, bench.shape()) as loop:
        await loop.run(bench.prompts(n_streams, n_prompt, "warm"), n_tokens=8)
        async for n_round in bench.rounds():
            for target in targets:
                pairs = measured.setdefault(target.name, Pairs())
                for half, is_bare_first in enumerate((True, False)):
                    duel = Duel(bench, loop, target, is_bare_first)
                    await duel.ttft(pairs, (n_round, half))
                    try:
                        await duel.rate(pairs, (n_round, half))
                    except Invalid as error:
                        notes.append(f"{target.name}: {error.message}")
        notes += bench.remarks(targets)
    ours = measured[targets[0].name]
    return Result(
        "overhead",
        QUESTION,
        COLUMNS,
        rows=tuple(
            row
            for name, pairs in measured.items()
            for row in (_ttft_row(name, pairs), _rate_row(name, pairs, n_streams))
        ),
        goals=(
            Goal("TTFT added", ours.added_ms, at_most=MOST_TTFT_MS, unit="ms"),
            Goal(
                f"throughput lost at {n_streams} streams",
                ours.lost_percent if ours.rates else None,
                at_most=MOST_LOSS_PERCENT,
                unit="%",
            ),
        ),
        notes=tuple(notes),
        raw=tuple(
            {"server": name, "ttft_ms": pairs.ttft_ms, "tokens_per_second": pairs.rates}
            for name, pairs in measured.items()
        ),
    )


@dataclass(frozen=True, slots=True)
class Duel:
    """The loop and one server in turn; half of the duels begin with the one, half with the other."""

    bench: Bench
    loop: RawLoop
    target: Target
    is_bare_first: bool

    async def ttft(self, pairs: Pairs, key: tuple[int, int]) -> None:
        """One prompt at a time, several times."""
        n_prompt = min(self.bench.options.prompt_tokens)
        prompts = self.bench.prompts(N_TTFT_PROBES, n_prompt, "ttft", *key)
        bare: list[float] = []
        served: list[float] = []
        for is_bare in self._order():
            async with self.bench.measuring(self.target.pid, self.loop.pid):
                for prompt in prompts:
                    if is_bare:
                        bare.append((await self.loop.run([prompt], n_tokens=1)).ttft)
                    else:
                        probe = await visit(self.target, [prompt], n_tokens=N_PROBE_TOKENS)
                        served += probe.ttfts
        pairs.ttft_ms.append((1e3 * median(bare), 1e3 * median(served)))

    async def rate(self, pairs: Pairs, key: tuple[int, int]) -> None:
        """A stream in every slot.

        Raises:
            Invalid: the server gave another number of tokens, or its streams never decoded together.
        """
        options = self.bench.options
        prompts = self.bench.prompts(
            options.n_slots, min(options.prompt_tokens), self.target.name, *key
        )
        bare: RawRun | None = None
        served: Visit | None = None
        for is_bare in self._order():
            async with self.bench.measuring(self.target.pid, self.loop.pid):
                if is_bare:
                    bare = await self.loop.run(prompts, n_tokens=options.n_tokens)
                else:
                    served = await visit(self.target, prompts, n_tokens=options.n_tokens)
        assert bare is not None and served is not None, "each had its turn"
        require_same_work(served, bare)
        steady = served.steady_tokens_per_second
        if steady is None:
            raise Invalid("its streams never decoded at the same time", hint="more --tokens")
        pairs.rates.append((bare.steady_tokens_per_second, steady))
        answers = zip(served.answers, bare.texts, strict=True)
        pairs.is_same_text += [answer.text == text for answer, text in answers]

    def _order(self) -> tuple[bool, bool]:
        return (True, False) if self.is_bare_first else (False, True)


def _ttft_row(name: str, pairs: Pairs) -> tuple[str, ...]:
    bare, served = zip(*pairs.ttft_ms, strict=True)
    return (
        "TTFT ms",
        name,
        f"{median(bare):.2f}",
        f"{median(served):.2f}",
        f"{pairs.added_ms} ms",
        "",
    )


def _rate_row(name: str, pairs: Pairs, n_streams: int) -> tuple[str, ...]:
    label = f"tok/s at {n_streams}"
    if not pairs.rates:
        return (label, name, "-", "-", "refused", "")
    bare, served = zip(*pairs.rates, strict=True)
    return (
        label,
        name,
        f"{median(bare):.1f}",
        f"{median(served):.1f}",
        f"{pairs.lost_percent} % lost",
        f"{sum(pairs.is_same_text)}/{len(pairs.is_same_text)}",
    )
