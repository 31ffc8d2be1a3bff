"""Far more requests at once than there is room for: who is refused how fast, and whether the accepted are served.

Knows one burst and its answers.
"""

import asyncio
from contextlib import AsyncExitStack

from hyprstream.bench.bench import Bench
from hyprstream.bench.client import Response, connect
from hyprstream.bench.completions import PATH, answer, request_body
from hyprstream.bench.results import Goal, Result
from hyprstream.bench.servers import Target
from hyprstream.bench.statistics import Estimate, estimate, median, percentile
from hyprstream.core.errors import BackendError

QUESTION = "200 requests arrive at once: how fast is a no, and does every yes hold?"
COLUMNS = (
    *("server", "answered 200", "429", "other", "429 ms p50", "p99", "max"),
    *("accepted and whole", "last answer s"),
)
N_REQUESTS, N_PROMPT, N_TOKENS = 200, 32, 16
MAX_QUEUE = 16
TOO_MANY = 429
MOST_MS = 50.0
"""Goal for the p99 of a refusal."""


async def run(bench: Bench) -> Result:
    """One burst a round at every server."""
    bursts: dict[str, list[list[Response]]] = {}
    async with bench.open(max_queue=MAX_QUEUE) as targets:
        async for n_round in bench.rounds():
            for target in targets:
                prompts = bench.prompts(N_REQUESTS, N_PROMPT, "overload", n_round)
                async with bench.measuring(target.pid):
                    burst = await _burst(target, prompts)
                bursts.setdefault(target.name, []).append(burst)
        notes = bench.remarks(targets)
    pooled = {name: [r for burst in found for r in burst] for name, found in bursts.items()}
    return Result(
        "overload",
        QUESTION,
        COLUMNS,
        rows=tuple(_row(name, found) for name, found in pooled.items()),
        goals=tuple(_goals(pooled[targets[0].name])),
        notes=(
            *notes,
            f"{bench.options.n_slots} slots, a queue of {MAX_QUEUE} where the server has one",
        ),
        raw=tuple(
            {"server": name, "status": r.status, "seconds": r.seconds, "is_whole": _is_whole(r)}
            for name, found in pooled.items()
            for r in found
        ),
    )


async def _burst(target: Target, prompts: list[list[int]]) -> list[Response]:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(target.endpoint)) for _ in prompts]
        for client, prompt in zip(clients, prompts, strict=True):
            client.send("POST", PATH, request_body(target.model, prompt, n_tokens=N_TOKENS))
        return await asyncio.gather(*(client.response() for client in clients))


def _is_whole(response: Response) -> bool:
    """Whether an answer has every token that was asked for."""
    if response.status != 200:
        return False
    try:
        return answer(response).n_tokens == N_TOKENS
    except BackendError:
        return False


def _refusal_ms(responses: list[Response]) -> list[float]:
    return [1e3 * r.seconds for r in responses if r.status == TOO_MANY]


def _row(name: str, responses: list[Response]) -> tuple[str, ...]:
    accepted = [r for r in responses if r.status == 200]
    refusals = _refusal_ms(responses)
    n_other = len(responses) - len(accepted) - len(refusals)
    no = (median(refusals), percentile(refusals, 99), max(refusals)) if refusals else ()
    return (
        name,
        str(len(accepted)),
        str(len(refusals)),
        str(n_other),
        *([f"{ms:.1f}" for ms in no] or ["-"] * 3),
        f"{sum(map(_is_whole, accepted))}/{len(accepted)}",
        f"{max((r.seconds for r in accepted), default=0.0):.2f}",
    )


def _goals(responses: list[Response]) -> list[Goal]:
    refusals = _refusal_ms(responses)
    accepted = [r for r in responses if r.status == 200]
    share = sum(map(_is_whole, accepted)) / len(accepted) if accepted else 0.0
    return [
        Goal(
            "p99 until a 429",
            estimate(refusals, 99) if refusals else None,
            at_most=MOST_MS,
            unit="ms",
        ),
        Goal(
            "accepted requests answered in full",
            Estimate(share, share, share, len(accepted)),
            at_least=1,
        ),
    ]
