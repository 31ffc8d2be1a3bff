"""The machine a measurement was made on, and whether it is quiet now. Knows /proc and clocks; knows no servers."""

import asyncio
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import psutil

LIBRARIES = ("hyprstream", "llama-cpp-python", "uvicorn", "uvloop", "httptools", "numpy")
RELEVANT_FLAGS = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"),
    *("avx512_bf16", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve"),
)
"""CPU flags that decide which of ggml's kernels run."""

BUSY_KINDS = ("user", "nice", "system", "irq", "softirq", "steal")
"""Fields of `psutil.cpu_times` that are no idleness; `guest` is part of `user` already."""

LOAD_PATH = Path("/proc/loadavg")
QUIET_SAMPLES = 4
"""Consecutive looks, 50 ms apart, at a run queue without anybody else in it."""
SAMPLE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides the numbers besides the program."""

    cpu: str
    n_cores: int
    n_threads: int
    flags: tuple[str, ...]
    memory_bytes: int
    read_gb_per_second: float
    """Measured memory read bandwidth of all cores together; 10⁹ bytes."""
    system: str
    python: str
    libraries: dict[str, str]


def describe() -> Machine:
    """Look at this machine; takes about a second, for the bandwidth."""
    cpu, flags = _cpu()
    n_threads = psutil.cpu_count() or 1
    return Machine(
        cpu=cpu,
        n_cores=psutil.cpu_count(logical=False) or n_threads,
        n_threads=n_threads,
        flags=flags,
        memory_bytes=psutil.virtual_memory().total,
        read_gb_per_second=read_bandwidth(n_threads) / 1e9,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        libraries=dict(_versions()),
    )


def read_bandwidth(n_threads: int, *, n_bytes: int = 256 * 2**20, n_passes: int = 5) -> float:
    """Bytes per second that `n_threads` read together from buffers far larger than the caches: the best of some passes.

    An estimate, for the ceiling of decoding (bandwidth over bytes per token), not a STREAM result.
    """
    buffers = [
        np.ones(n_bytes // n_threads, dtype=np.uint8).view(np.uint64) for _ in range(n_threads)
    ]
    with ThreadPoolExecutor(n_threads) as pool:
        seconds = [
            _timed(lambda: list(pool.map(np.bitwise_or.reduce, buffers))) for _ in range(n_passes)
        ]
    return sum(buffer.nbytes for buffer in buffers) / min(seconds)


class NoiseMeter:
    """How much CPU other processes took since it was made, theft by the hypervisor included."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in (*pids, os.getpid())]
        self._started = time.perf_counter()
        self._others = self._others_seconds()

    def cores(self) -> float:
        """Cores that others kept busy, on average."""
        seconds = time.perf_counter() - self._started
        return (self._others_seconds() - self._others) / seconds

    def _others_seconds(self) -> float:
        times = psutil.cpu_times()
        busy = sum(getattr(times, kind, 0.0) for kind in BUSY_KINDS)
        return busy - sum(_cpu_seconds(process) for process in self._processes)


async def wait_until_quiet(*, timeout_seconds: float, load_path: Path = LOAD_PATH) -> bool:
    """Wait until nobody but us wants a CPU; False if that did not happen in time or cannot be told."""
    deadline = time.monotonic() + timeout_seconds
    n_quiet = 0
    while n_quiet < QUIET_SAMPLES:
        n_running = run_queue(load_path)
        if n_running is None or time.monotonic() > deadline:
            return False
        n_quiet = n_quiet + 1 if n_running <= 1 else 0
        await asyncio.sleep(SAMPLE_SECONDS)
    return True


def run_queue(load_path: Path = LOAD_PATH) -> int | None:
    """Runnable threads at this moment, the asking one included (`/proc/loadavg`, proc(5)); None if unknown."""
    try:
        return int(load_path.read_text().split()[3].partition("/")[0])
    except (OSError, LookupError, ValueError):
        return None


def _cpu() -> tuple[str, tuple[str, ...]]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), ()
    fields = dict(reversed([_field(line) for line in lines]))
    present = set(fields.get("flags", fields.get("Features", "")).split())
    name = fields.get("model name", platform.machine())
    return name, tuple(flag for flag in RELEVANT_FLAGS if flag in present)


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _versions() -> Iterator[tuple[str, str]]:
    for name in LIBRARIES:
        # uvloop is not there on every system.
        with suppress(PackageNotFoundError):
            yield name, version(name)


def _cpu_seconds(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        used = process.cpu_times()
        return used.user + used.system
    return 0.0


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
