"""A process that is killed at its n-th change of the disk, as by `kill -9`: no handler runs, nothing is tidied up."""

import os
import signal
import sys
from collections.abc import Callable, Iterator

_CHANGES = frozenset(
    {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "subprocess.Popen"}
)


def killed_at(n: int, action: Callable[[], object]) -> bool:
    """Run `action` in a process that dies just before its n-th change; whether it died."""
    child = os.fork()
    if child == 0:
        _die_at(n)
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def every_point(prepare: Callable[[], Callable[[], object]]) -> Iterator[int]:
    """Yield n after each process that was prepared anew and died before its n-th change, until one lives to its end."""
    n = 0
    while killed_at(n, prepare()):
        yield n
        n += 1


def _die_at(n: int) -> None:
    left = n

    def count(event: str, args: tuple[object, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(args[1], str) and any(c in args[1] for c in "wxa")
        if event in _CHANGES or writes or (event == "open" and _is_for_writing(args[2])):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.addaudithook(count)


def _is_for_writing(flags: object) -> bool:
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
