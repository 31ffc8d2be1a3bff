"""Whether others want the CPU, and what this machine is."""

import os
from pathlib import Path

import pytest

from hyprstream.bench.machine import NoiseMeter, read_bandwidth, run_queue, wait_until_quiet


def loadavg(path: Path, n_running: int) -> Path:
    path.write_text(f"0.50 0.40 0.30 {n_running}/123 4567\n")
    return path


def test_the_run_queue_is_the_fourth_field(tmp_path: Path) -> None:
    assert run_queue(loadavg(tmp_path / "loadavg", 7)) == 7


@pytest.mark.parametrize("text", ["", "0.1 0.2 0.3", "a b c d/e f"])
def test_an_unknown_format_is_unknown_and_not_quiet(tmp_path: Path, text: str) -> None:
    path = tmp_path / "loadavg"
    path.write_text(text)
    assert run_queue(path) is None


async def test_a_machine_where_only_we_run_is_quiet(tmp_path: Path) -> None:
    path = loadavg(tmp_path / "loadavg", 1)
    assert await wait_until_quiet(timeout_seconds=30, load_path=path)


async def test_the_wait_for_quiet_ends_with_a_no_when_others_keep_running(tmp_path: Path) -> None:
    path = loadavg(tmp_path / "loadavg", 3)
    assert not await wait_until_quiet(timeout_seconds=0, load_path=path)


async def test_a_system_that_cannot_tell_is_not_called_quiet(tmp_path: Path) -> None:
    assert not await wait_until_quiet(timeout_seconds=30, load_path=tmp_path / "absent")


def test_a_process_that_ended_does_not_break_the_noise_meter() -> None:
    meter = NoiseMeter([os.getppid()])
    assert meter.cores() < (os.cpu_count() or 1) + 1


def test_memory_is_read_at_some_speed() -> None:
    assert read_bandwidth(1, n_bytes=2**20, n_passes=1) > 0
