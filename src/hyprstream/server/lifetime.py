"""How long a request is worked on: until it is answered, its client leaves or its time is over. Knows no dialect."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.types import Receive

from hyprstream.core.errors import DeadlineExceeded


class ClientGone(Exception):
    """The client hung up or stopped reading: nobody is left to answer, or to tell of an error."""


@asynccontextmanager
async def lifetime(receive: Receive, seconds: float | None) -> AsyncGenerator[None]:
    """A block that ends early when the client hangs up or `seconds` are over. The body must have been read before.

    Raises:
        ClientGone: the client hung up.
        DeadlineExceeded: the time is over.
    """
    deadline = asyncio.timeout(seconds)
    watcher = asyncio.create_task(_expire_on_disconnect(receive, deadline))
    try:
        async with deadline:
            yield
    except TimeoutError:
        if not deadline.expired():
            raise
        if watcher.done():
            raise ClientGone from None
        raise DeadlineExceeded(f"the answer took longer than {seconds:g} s") from None
    finally:
        watcher.cancel()


async def _expire_on_disconnect(receive: Receive, deadline: asyncio.Timeout) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    if not deadline.expired():
        deadline.reschedule(asyncio.get_running_loop().time())
