"""Clients that do not read cost no memory, do not delay other clients, and lose nothing."""

import asyncio
import subprocess
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.faults.readers import Reader, opened
from tests.support.clients import Requests, event, metrics, open_stream, read_page, receipts
from tests.support.instance_settings import on_redis
from tests.support.processes import Instance, MakeInstance, MakeRedis

STUCK = 2
EVENT_BYTES = 100_000
BATCH = 10
EVENTS = 520  # 52 MB; the filters of the stuck clients differ, so that they share nothing
REPLAYING = 20
GROWTH = 64 * 1024  # KiB; 2 queues, or 20 pages of 200 events, would be far more
RECEIVE_BUFFER = 512 * 1024  # bytes that the kernel takes for a client that does not read


@pytest.mark.xdist_group("heavy")
@pytest.mark.timeout(120)
async def test_clients_that_stop_reading_cost_no_memory(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    redis = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    names = [f"event-{number}" for number in range(EVENTS)]
    async with AsyncExitStack() as stack:
        stuck = [
            await stack.enter_async_context(opened(instance, RECEIVE_BUFFER, types=f"note,other-{number}"))
            for number in range(STUCK)
        ]
        fast = await stack.enter_async_context(opened(instance))
        reading = asyncio.create_task(fast.read_on())
        stack.callback(reading.cancel)
        requests = await stack.enter_async_context(Requests(instance))
        for turn in range(3):  # memory that the first events need once does not count
            receipts(await requests.publish(*(large(f"warm-{turn}-{n}", type="warm") for n in range(BATCH))))
        await fast.until(lambda: len(fast.names) == 3 * BATCH)
        before = maximum = memory(instance)

        for start in range(0, EVENTS, BATCH):
            batch = names[start : start + BATCH]
            receipts(await requests.publish(*(large(name) for name in batch)))
            # Each batch reaches the client that reads.
            await fast.until(lambda last=batch[-1]: fast.names[-1] == last)  # type: ignore[misc]  # binds the loop variable
            maximum = max(maximum, memory(instance))
        assert fast.names[3 * BATCH :] == names
        assert maximum - before < GROWTH, f"grew from {before:,} to {maximum:,} KiB"
        counted = await metrics(instance)
        assert counted['realtime_subscribers{state="catching-up"}'] == STUCK, "they were not slow"

        for reader in stuck:
            await reader.read_until(lambda reader=reader: names[-1] in reader.names[-1:])  # type: ignore[misc]  # binds the loop variable
            maximum = max(maximum, memory(instance))
            assert reader.names == names
            assert reader.control == ["realtime.ready"]
        assert (await metrics(instance))["realtime_back_to_log_total"] >= STUCK
        assert maximum - before < GROWTH, f"grew from {before:,} to {maximum:,} KiB"


@pytest.mark.xdist_group("heavy")
@pytest.mark.timeout(120)
async def test_clients_that_stop_in_their_replay_hold_no_pages(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    redis = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    names = [f"event-{number}" for number in range(EVENTS)]
    async with AsyncExitStack() as stack:
        requests = await stack.enter_async_context(Requests(instance))
        for start in range(0, EVENTS, BATCH):
            receipts(await requests.publish(*(large(name) for name in names[start : start + BATCH])))
        assert (await read_page(instance, **{"from": "earliest"}))["events"], "the log is empty"
        before = memory(instance)
        stuck = []
        for number in range(REPLAYING):
            query = {"from": "earliest", "types": f"note,other-{number}"}
            stream = await stack.enter_async_context(open_stream(instance.port, query, receive_buffer=RECEIVE_BUFFER))
            stuck.append(Reader(stream))
            await stuck[-1].read_until(lambda: len(stuck[-1].names) >= number)  # noqa: B023 — awaited within this turn of the loop
        after = memory(instance)
        assert after - before < GROWTH, f"grew from {before:,} to {after:,} KiB"
        await stuck[0].read_until(lambda: bool(stuck[0].control))
        assert stuck[0].names == names
        assert stuck[0].control == ["realtime.ready"]


def large(name: str, type: str = "note") -> dict[str, Any]:
    draft = event(name, type=type)
    return {**draft, "data": {**draft["data"], "text": "x" * EVENT_BYTES}}


def memory(instance: Instance) -> int:
    """Return the memory of the instance in KiB."""
    done = subprocess.run(["ps", "-o", "rss=", "-p", str(instance.pid)], capture_output=True, text=True, check=True)
    return int(done.stdout)
