"""From one thread to an event loop, cheaply. Knows pipes and the interpreter lock; knows nothing of what it carries.

`loop.call_soon_threadsafe` wakes the loop by a system call that gives the interpreter lock away, so the woken loop runs first and
the thread waits for it: 160 to 210 µs after every step. The call here keeps the lock: the loop wakes when the thread next
gives it up by itself, which is when it computes.
"""

import asyncio
import contextlib
import ctypes
import os
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

# PyDLL, unlike CDLL and os.write, does not release the interpreter lock around a call.
_write = ctypes.PyDLL(None, use_errno=True).write
_write.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
_write.restype = ctypes.c_ssize_t


class Outbox(Generic[Item]):
    """Items put in by one thread; `receive` is called with each on the event loop, in order."""

    def __init__(self, receive: Callable[[Item], None]) -> None:
        self._receive = receive
        self._items: deque[Item] = deque()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._is_signalled = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver on this loop from now on. Called on the loop."""
        if loop is not self._loop:
            self._loop = loop
            loop.add_reader(self._reader, self._drain)
            self._drain()

    def put(self, item: Item) -> None:
        """Hand an item over. Called by the thread."""
        self._items.append(item)
        if not self._is_signalled:
            # A full pipe means that the loop is being woken already.
            self._is_signalled = True
            _write(self._writer, b"!", 1)

    def close(self) -> None:
        """Deliver what is left and let the pipe go. Called on the loop, after the thread has ended."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._reader)
        self._drain()
        os.close(self._reader)
        os.close(self._writer)

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 64)
        # Cleared before the items are taken: whatever is put from here on wakes the loop again.
        self._is_signalled = False
        while self._items:
            self._receive(self._items.popleft())
