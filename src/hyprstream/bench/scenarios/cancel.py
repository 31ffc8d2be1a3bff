"""Clients that hang up: how soon their slot, or their place in the queue, is free. Knows the moments of leaving."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from hyprstream.bench.bench import Bench
from hyprstream.bench.client import Connection, connect
from hyprstream.bench.completions import PATH, carries_text, request_body
from hyprstream.bench.load import open_stream
from hyprstream.bench.occupancy import Occupancy, occupancy
from hyprstream.bench.results import Goal, Result
from hyprstream.bench.servers import Target
from hyprstream.bench.statistics import estimate, median, percentile
from hyprstream.core.errors import BackendError, Unavailable

QUESTION = "A client hangs up: how long is its slot still taken?"
COLUMNS = ("left while", "server", "n", "ms p50", "ms p99", "ms max")
MOST_MS = 100.0
"""Goal for the p99, over all moments."""
N_REPETITIONS, N_QUICK_REPETITIONS = 25, 4
SHORT_PROMPT, LONG_PROMPT = 32, 2_000
DEEP_SECONDS = (0.5, 3.0)
N_TOKENS = 256
"""Of an abandoned answer: bounds how long a server that does not notice keeps on."""
POLL_SECONDS = 0.002
GIVE_UP_SECONDS = 10.0
"""A server that has not noticed by then is not asked again: this is what is reported of it."""
IDLE_SECONDS = 120.0
"""Longest wait for what was abandoned before to end by itself."""


Condition = Callable[[Occupancy], bool]


def nothing_runs(now: Occupancy) -> bool:
    return now.n_busy == 0


def something_runs(now: Occupancy) -> bool:
    return now.n_busy > 0


def nothing_waits(now: Occupancy) -> bool:
    return now.n_waiting == 0


def something_waits(now: Occupancy) -> bool:
    return now.n_waiting > 0


class Scene:
    """One server, idle, and who watches it."""

    def __init__(self, bench: Bench, target: Target) -> None:
        self.target = target
        self.bench = bench
        self._n_prompts = 0
        self._random = random.Random(bench.options.seed)

    async def until(self, holds: Condition) -> None:
        """Watch until the server is as wanted.

        Raises:
            Unavailable: it does not come to that.
        """
        if not await self._comes_to(holds, IDLE_SECONDS):
            now = await occupancy(self.target.endpoint)
            raise Unavailable(
                f"{self.target.name} has {now.n_busy} requests running and {now.n_waiting} waiting"
                f" after {IDLE_SECONDS:g} s"
            )

    async def _comes_to(self, holds: Condition, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not holds(await occupancy(self.target.endpoint)):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True

    async def pause(self, seconds: tuple[float, float] = (0.02, 0.2)) -> None:
        """Between so many seconds, so that clients leave at every moment of a step."""
        await asyncio.sleep(self._random.uniform(*seconds))

    def prompt(self, n_tokens: int) -> list[int]:
        """One this server has not seen."""
        self._n_prompts += 1
        return self.bench.prompts(1, n_tokens, "cancel", self._n_prompts)[0]

    @asynccontextmanager
    async def sent(self, *, n_prompt: int, is_stream: bool = True) -> AsyncGenerator[Connection]:
        """A request whose answer nobody has read yet."""
        body = request_body(
            self.target.model, self.prompt(n_prompt), n_tokens=N_TOKENS, is_stream=is_stream
        )
        async with connect(self.target.endpoint) as connection:
            connection.send("POST", PATH, body)
            yield connection

    async def leave(self, leaver: Connection, holds: Condition) -> float:
        """Hang up, and the seconds until the server is as it should be; `GIVE_UP_SECONDS` at most."""
        left_at = time.perf_counter()
        leaver.abort()
        has_come = await self._comes_to(holds, GIVE_UP_SECONDS)
        return time.perf_counter() - left_at if has_come else GIVE_UP_SECONDS


async def run(bench: Bench) -> Result:
    """Every moment of leaving, again and again, at every server."""
    n = N_QUICK_REPETITIONS if bench.options.is_quick else N_REPETITIONS
    seconds: dict[tuple[str, str], list[float]] = {}
    async with bench.open() as targets:
        for target in targets:
            scene = Scene(bench, target)
            for moment, leave in MOMENTS.items():
                bench.say(f"{target.name}: leaving while {moment}")
                await scene.until(nothing_runs)
                seconds[moment, target.name] = await _repeat(leave, scene, n)
        notes = bench.remarks(targets)
    ours = targets[0].name
    all_of_ours = [1e3 * s for (_, name), found in seconds.items() if name == ours for s in found]
    return Result(
        "cancel",
        QUESTION,
        COLUMNS,
        rows=tuple(_row(moment, name, found) for (moment, name), found in seconds.items()),
        goals=(
            Goal(
                "p99 until the slot is free", estimate(all_of_ours, 99), at_most=MOST_MS, unit="ms"
            ),
        ),
        notes=(
            *notes,
            f"seen by polling every {1e3 * POLL_SECONDS:g} ms, given up after {GIVE_UP_SECONDS:g} s",
        ),
        raw=tuple(
            {"left_while": moment, "server": name, "seconds": found}
            for (moment, name), found in seconds.items()
        ),
    )


async def while_streaming(scene: Scene) -> AsyncGenerator[float]:
    """After the first text."""
    while True:
        async with scene.sent(n_prompt=SHORT_PROMPT) as client:
            await _first_text(client)
            await scene.pause()
            yield await scene.leave(client, nothing_runs)


async def while_prefilling(scene: Scene) -> AsyncGenerator[float]:
    """While a long prompt is computed."""
    while True:
        async with scene.sent(n_prompt=LONG_PROMPT) as client:
            await scene.until(something_runs)
            await scene.pause()
            yield await scene.leave(client, nothing_runs)


async def deep_in_a_prompt(scene: Scene) -> AsyncGenerator[float]:
    """While the middle of a long prompt is computed, where a token costs the most and chunks are the longest."""
    while True:
        async with scene.sent(n_prompt=LONG_PROMPT) as client:
            await scene.until(something_runs)
            await scene.pause(DEEP_SECONDS)
            yield await scene.leave(client, nothing_runs)


async def while_not_streaming(scene: Scene) -> AsyncGenerator[float]:
    """While an answer is computed that will be sent in one piece."""
    while True:
        async with scene.sent(n_prompt=SHORT_PROMPT, is_stream=False) as client:
            await scene.until(something_runs)
            await scene.pause()
            yield await scene.leave(client, nothing_runs)


async def while_queued(scene: Scene) -> AsyncGenerator[float]:
    """While others have every slot."""
    options = scene.bench.options
    n_tokens = options.n_ctx - SHORT_PROMPT - 1
    async with AsyncExitStack() as stack:
        for _ in range(options.n_slots):
            prompt = scene.prompt(SHORT_PROMPT)
            other = open_stream(scene.target, prompt, n_tokens=n_tokens)
            await (await stack.enter_async_context(other)).reach(1)
        while True:
            async with scene.sent(n_prompt=SHORT_PROMPT) as client:
                await scene.until(something_waits)
                await scene.pause()
                yield await scene.leave(client, nothing_waits)


MOMENTS: dict[str, Callable[[Scene], AsyncGenerator[float]]] = {
    "streaming": while_streaming,
    "prefilling": while_prefilling,
    "deep in a prompt": deep_in_a_prompt,
    "non-streaming": while_not_streaming,
    "queued": while_queued,
}


async def _repeat(
    leave: Callable[[Scene], AsyncGenerator[float]], scene: Scene, n: int
) -> list[float]:
    """`n` times, or until the server did not notice even once."""
    seconds: list[float] = []
    async with aclosing(leave(scene)) as departures:
        async for taken in departures:
            seconds.append(taken)
            if len(seconds) == n or taken == GIVE_UP_SECONDS:
                break
    return seconds


async def _first_text(client: Connection) -> None:
    async with aclosing(client.events()) as events:
        async for event in events:
            if carries_text(event):
                return
    raise BackendError("a stream ended without any text")


def _row(moment: str, name: str, seconds: list[float]) -> tuple[str, ...]:
    ms = [1e3 * s for s in seconds]
    return (
        moment,
        name,
        str(len(ms)),
        f"{median(ms):.1f}",
        f"{percentile(ms, 99):.1f}",
        f"{max(ms):.1f}",
    )
