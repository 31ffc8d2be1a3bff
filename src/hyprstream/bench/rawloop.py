"""The bare decode loop of `bench/raw_decode.py`, as a process that is asked over its pipes. Knows no llama.cpp."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from hyprstream.bench.client import json_object
from hyprstream.bench.servers import CHECKOUT, Shape
from hyprstream.core.errors import BackendError, NotFound

SCRIPT = CHECKOUT / "bench" / "raw_decode.py"
LINE_LIMIT = 16 * 2**20


@dataclass(frozen=True, slots=True)
class RawRun:
    """Prompts prefilled one after the other, then decoded together. Times in seconds."""

    n_prompt_tokens: tuple[int, ...]
    n_tokens: int
    """Of each stream."""
    ttft: float
    """Until the last prompt's first token."""
    seconds: float
    """Of the decode calls after that; each gave every stream one token."""
    texts: tuple[str, ...]

    @property
    def token_counts(self) -> list[tuple[int, int]]:
        return [(n, self.n_tokens) for n in self.n_prompt_tokens]

    @property
    def steady_tokens_per_second(self) -> float:
        return len(self.texts) * (self.n_tokens - 1) / self.seconds


class RawLoop:
    """A loaded model that decodes without a server. Made by `raw_loop`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None, "both were asked for"
        self.pid = process.pid
        self._stdin, self._stdout = process.stdin, process.stdout

    async def run(self, prompts: Sequence[list[int]], *, n_tokens: int) -> RawRun:
        """Decode `n_tokens` greedy tokens for each prompt."""
        self._stdin.write(orjson.dumps({"prompts": prompts, "n_tokens": n_tokens}) + b"\n")
        await self._stdin.drain()
        found: Any = await self.answer()
        lengths = tuple(map(len, prompts))
        return RawRun(lengths, n_tokens, found["ttft"], found["seconds"], tuple(found["texts"]))

    async def answer(self) -> dict[str, object]:
        """The next line it writes.

        Raises:
            BackendError: it has ended.
        """
        line = await self._stdout.readline()
        if not line:
            raise BackendError(f"{SCRIPT.name} ended", hint="its last words are above")
        return json_object(line)


@asynccontextmanager
async def raw_loop(model_path: Path, shape: Shape) -> AsyncGenerator[RawLoop]:
    """The loop in a process of its own, loaded and ready.

    Raises:
        NotFound: this is no checkout of the sources.
        BackendError: it could not load the model.
    """
    if not SCRIPT.is_file():
        raise NotFound(f"no {SCRIPT}", kind="file", hint="run it in a checkout of the sources")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(SCRIPT), str(model_path)),
        *("--n-ctx", str(shape.n_ctx), "--n-slots", str(shape.n_slots)),
        *("--n-threads", str(shape.n_threads)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_LIMIT,
    )
    try:
        loop = RawLoop(process)
        await loop.answer()
        yield loop
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
