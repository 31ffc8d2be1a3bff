"""Processes that are killed in the middle of their work, at a step of one's choice. Nothing is told to the code they run."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = ("fsync", "replace", "rename", "link", "unlink", "symlink", "rmdir")
"""Functions of `os` through which everything goes that lasts; besides them, programs that are started."""


def count_steps(work: Callable[[], object], tally: Path) -> int:
    """How many steps some work has, done in a process of its own. `tally` is a file to count in."""
    code = _in_child(work, None, tally)
    assert code == 0, "the work itself must succeed"
    return int(tally.read_text())


def kill_at(work: Callable[[], object], step: int, tally: Path) -> bool:
    """Do the work in a process that kills itself before its `step`th step; whether it came that far."""
    return _in_child(work, step, tally) == -signal.SIGKILL


def _in_child(work: Callable[[], object], step: int | None, tally: Path) -> int:
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        counted = _count(step)
        work()
        tally.write_text(str(counted()))
        code = 0
    finally:
        os._exit(code)


def _count(step: int | None) -> Callable[[], int]:
    n = 0

    def tick() -> None:
        nonlocal n
        n += 1
        if n == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            tick()
            return function(*args, **kwargs)

        return counted

    for name in STEPS:
        setattr(os, name, before(getattr(os, name)))
    start = subprocess.Popen.__init__

    def started(self: "subprocess.Popen[bytes]", *args: Any, **kwargs: Any) -> None:
        tick()
        start(self, *args, **kwargs)
        tick()  # the program lives on without us

    subprocess.Popen.__init__ = started  # type: ignore[method-assign]
    return lambda: n
