"""How many requests a server computes and how many wait, as the server itself tells. Knows two servers' ways to say it."""

from dataclasses import dataclass
from typing import Any

import orjson

from hyprstream.bench.client import Endpoint, get
from hyprstream.core.errors import BackendError


@dataclass(frozen=True, slots=True)
class Occupancy:
    """A moment of one server."""

    n_busy: int
    n_waiting: int


async def occupancy(endpoint: Endpoint) -> Occupancy:
    """What the server there is doing now. Asked over fresh connections: llama-server ends one after 100 requests.

    Asks `GET /health` for `{"slots": {"busy": n}, "waiting": n}` (hyprstream), else `GET /metrics` for the gauges
    `requests_processing` and `requests_deferred` (llama-server with `--metrics`).

    Raises:
        BackendError: the server has neither.
    """
    found = from_health((await get(endpoint, "/health")).body)
    if found is None:
        metrics = await get(endpoint, "/metrics")
        found = from_metrics(metrics.body.decode(errors="replace"))
    if found is None:
        raise BackendError(
            "the server does not tell how many slots are busy",
            hint="the `cancel` scenario needs hyprstream, or llama-server with --metrics",
        )
    return found


def from_health(body: bytes) -> Occupancy | None:
    """Out of our own `/health`; None if this is somebody else's."""
    try:
        health: Any = orjson.loads(body)
        return Occupancy(int(health["slots"]["busy"]), int(health["waiting"]))
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError):
        return None


def from_metrics(text: str) -> Occupancy | None:
    """Out of Prometheus text (exposition format 0.0.4); None if the gauges are not there."""
    gauges = {
        name.removeprefix("llamacpp:"): float(value)
        for line in text.splitlines()
        if line.startswith("llamacpp:")
        for name, _, value in [line.partition(" ")]
    }
    if "requests_processing" not in gauges:
        return None
    return Occupancy(int(gauges["requests_processing"]), int(gauges.get("requests_deferred", 0)))
