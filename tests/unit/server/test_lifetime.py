"""How long a request is worked on."""

import asyncio

import pytest
from starlette.types import Message

from hyprstream.core.errors import DeadlineExceeded
from hyprstream.server.lifetime import ClientGone, lifetime

NEVER = asyncio.Event


async def silence() -> Message:
    await NEVER().wait()
    raise AssertionError("never is over")


async def goodbye() -> Message:
    return {"type": "http.disconnect"}


async def test_a_client_that_hangs_up_ends_the_block():
    with pytest.raises(ClientGone):
        async with lifetime(goodbye, None):
            await NEVER().wait()


async def test_the_time_being_over_ends_the_block():
    with pytest.raises(DeadlineExceeded, match=r"0\.01 s"):
        async with lifetime(silence, 0.01):
            await NEVER().wait()


async def test_a_timeout_of_the_work_itself_stays_what_it_is():
    with pytest.raises(TimeoutError, match="mine"):
        async with lifetime(silence, 60):
            raise TimeoutError("mine")


async def test_messages_that_are_no_goodbye_change_nothing():
    messages = [{"type": "http.request"}, {"type": "http.request"}]

    async def receive() -> Message:
        return messages.pop() if messages else await silence()

    async with lifetime(receive, 60):
        await asyncio.sleep(0)
    assert len(messages) == 0


async def test_nobody_listens_for_a_goodbye_after_the_block():
    before = asyncio.all_tasks()
    async with lifetime(silence, 60):
        await asyncio.sleep(0)
        [watcher] = asyncio.all_tasks() - before
    with pytest.raises(asyncio.CancelledError):
        await watcher


async def test_a_goodbye_while_the_time_runs_out_is_a_goodbye():
    is_over = asyncio.Event()

    async def late_goodbye() -> Message:
        await is_over.wait()
        return await goodbye()

    with pytest.raises(ClientGone):
        async with lifetime(late_goodbye, 0.01):
            try:
                await NEVER().wait()
            finally:
                is_over.set()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
