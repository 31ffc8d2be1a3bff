"""What every scenario works with: the servers, the sizes, the quiet. Knows no scenario."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hyprstream.bench.load import visit
from hyprstream.bench.machine import NoiseMeter, wait_until_quiet
from hyprstream.bench.prompts import prompts
from hyprstream.bench.servers import Launcher, Shape, Target

MOST_NOISE = 0.05
"""Cores that others may keep busy during a measurement before it counts as noisy."""


@dataclass(frozen=True, slots=True)
class Options:
    """The sizes of a run."""

    n_rounds: int = 5
    rest_seconds: float = 10.0
    """Before each round."""
    streams: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 16)
    prompt_tokens: tuple[int, ...] = (32, 512, 2048)
    n_tokens: int = 64
    """Completion tokens of every stream."""
    seed: str = "0"
    """Of every prompt."""
    n_slots: int = 8
    n_ctx: int = 4608
    """Context window of one slot, in tokens."""
    n_threads: int = 1
    quiet_seconds: float = 30.0
    """Longest wait for a quiet machine before a measurement is made all the same, and counted as noisy."""
    is_quick: bool = False
    """Fewer repetitions: good for seeing that it works, not for claims."""


QUICK = Options(
    n_rounds=1, rest_seconds=0.0, streams=(1, 2, 4, 8), prompt_tokens=(32,), is_quick=True
)


@dataclass(slots=True)
class Bench:
    """One run. `launchers[0]` is what is being judged, the others are its peers."""

    options: Options
    launchers: tuple[Launcher, ...]
    model_path: Path | None
    """The GGUF file every server of ours runs; None where only foreign servers are measured."""
    say: Callable[[str], None]
    """Told what is happening, one line at a time."""
    n_noisy: int = field(default=0, init=False)
    """Measurements during which other processes were busy."""
    n_measurements: int = field(default=0, init=False)

    @asynccontextmanager
    async def open(self, *, max_queue: int | None = None) -> AsyncGenerator[tuple[Target, ...]]:
        """Every server, freshly started where it is ours to start, warmed up and idle."""
        shape = self.shape(max_queue)
        self.n_noisy = self.n_measurements = 0
        async with AsyncExitStack() as stack:
            targets: list[Target] = []
            for launcher in self.launchers:
                self.say(f"starting {launcher.name}")
                target = await stack.enter_async_context(launcher.launch(shape))
                await visit(target, self.prompts(shape.n_slots, 64, "warm"), n_tokens=8)
                targets.append(target)
            yield tuple(targets)

    def shape(self, max_queue: int | None = None) -> Shape:
        """How every side is run."""
        options = self.options
        return Shape(options.n_slots, options.n_ctx, options.n_threads, max_queue)

    async def rounds(self) -> AsyncGenerator[int]:
        """Round numbers, each after a rest."""
        for n in range(self.options.n_rounds):
            self.say(f"round {n + 1} of {self.options.n_rounds}")
            await asyncio.sleep(self.options.rest_seconds)
            yield n

    @asynccontextmanager
    async def measuring(self, *pids: int | None) -> AsyncGenerator[None]:
        """One measurement: waits for a quiet machine first, and counts it if others wanted the CPU all the same.

        `pids` are the processes that may be busy, besides this one.
        """
        is_quiet = await wait_until_quiet(timeout_seconds=self.options.quiet_seconds)
        noise = NoiseMeter([pid for pid in pids if pid is not None])
        yield
        self.n_measurements += 1
        self.n_noisy += not is_quiet or noise.cores() > MOST_NOISE

    def prompts(self, n: int, n_tokens: int, *key: object) -> list[list[int]]:
        """Prompts that no other key of this run has."""
        seed = "/".join(str(part) for part in (self.options.seed, *key))
        return prompts(n, n_tokens=n_tokens, seed=seed)

    def remarks(self, targets: tuple[Target, ...]) -> list[str]:
        """What a reader must know of any scenario."""
        found: list[str] = []
        if self.n_noisy:
            found.append(
                f"{self.n_noisy} of {self.n_measurements} measurements were disturbed: others kept more"
                f" than {MOST_NOISE:g} cores busy, or did not rest for {self.options.quiet_seconds:g} s before"
            )
        first, *others = [target.engine_digests for target in targets]
        if any(first[name] != other[name] for other in others for name in first.keys() & other):
            found.append("the servers run different builds of llama.cpp: ratios compare both")
        found.extend(
            f"{target.name}: {rss / 2**20:.0f} MB resident after the run"
            for target in targets
            if (rss := target.rss_bytes) is not None
        )
        return found
