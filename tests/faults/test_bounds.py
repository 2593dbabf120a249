"""The bounds in docs/architecture.md, measured: a real process under load over HTTP, and /proc."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.readers import Reader, opened
from tests.support.clients import Requests, event, metrics, open_stream, read_page, receipts
from tests.support.instance_settings import on_redis
from tests.support.processes import Instance, MakeInstance, MakeRedis
from tests.support.waiting import eventually

pytestmark = [pytest.mark.xdist_group("heavy"), pytest.mark.timeout(180)]

MIB = 1024  # KiB, as /proc counts
RECEIVE_BUFFER = 64 * 1024


class Peak:
    """The growth of an instance's memory from now on, in KiB."""

    def __init__(self, instance: Instance) -> None:
        self._folder = Path(f"/proc/{instance.pid}")
        (self._folder / "clear_refs").write_text("5")  # proc(5): resets the peak
        self._before = self._read("VmRSS")

    @property
    def growth(self) -> int:
        return self._read("VmHWM") - self._before

    @property
    def kept(self) -> int:
        return self._read("VmRSS") - self._before

    def _read(self, name: str) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def large(name: str, size: int, **fields: Any) -> dict[str, Any]:
    draft = event(name, **fields)
    return {**draft, "data": {**draft["data"], "text": "x" * size}}


async def publish_large(instance: Instance, count: int, size: int, batch: int, name: str = "event") -> dict[str, str]:
    """Publish `count` events; return the cursor of each by its name."""
    names = [f"{name}-{number}" for number in range(count)]
    cursors: list[str] = []
    async with Requests(instance) as requests:
        for start in range(0, count, batch):
            answer = await requests.publish(*(large(name, size) for name in names[start : start + batch]))
            cursors += [receipt["cursor"] for receipt in receipts(answer)]
    return dict(zip(names, cursors, strict=True))


async def warm(instance: Instance) -> None:
    """Let the instance allocate what it needs once."""
    async with opened(instance) as reader:
        await publish_large(instance, 10, 100_000, 5, "warm")
        await reader.read_until(lambda: len(reader.names) == 10)
    await read_page(instance, wait="0.1")


@asynccontextmanager
async def instance_on(make_redis: MakeRedis, make_instance: MakeInstance) -> AsyncIterator[Instance]:
    redis = await asyncio.to_thread(make_redis, aof=False)
    yield await asyncio.to_thread(make_instance, **on_redis(redis))


async def test_the_ring_counts_audiences(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """16 MiB of events for 1,000 users each took 412 MB."""
    count, users = 1_500, [f"user-{number}" for number in range(1_000)]
    async with instance_on(make_redis, make_instance) as instance:
        await warm(instance)
        async with opened(instance, userId="user-1") as reader, Requests(instance) as requests:
            peak = Peak(instance)
            for start in range(0, count, 50):
                batch = [{**event(f"e{n}"), "userIds": users} for n in range(start, start + 50)]
                receipts(await requests.publish(*batch))
                await reader.read_until(lambda last=f"e{start + 49}": last in reader.names[-1:])  # type: ignore[misc]  # binds the loop variable
            assert peak.kept < 56 * MIB, f"{peak.kept:,} KiB"
            assert peak.growth < 72 * MIB, f"{peak.growth:,} KiB"


async def test_a_backlog_is_not_kept_for_each_stream(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """One 10 MB read of the tail for 30 live streams whose clients do not read took 232 MB, and kept them."""
    streams, count = 30, 100
    redis = await asyncio.to_thread(make_redis, aof=False)
    publisher, instance = [await asyncio.to_thread(make_instance, **on_redis(redis)) for _ in range(2)]
    async with AsyncExitStack() as stack:
        await warm(instance)
        readers = [await stack.enter_async_context(opened(instance, RECEIVE_BUFFER)) for _ in range(streams)]
        peak = Peak(instance)
        instance.pause()
        names = list(await publish_large(publisher, count, 100_000, 10))
        instance.resume()

        async def all_are_slow() -> bool:
            return (await metrics(instance))['realtime_subscribers{state="catching-up"}'] == streams

        await eventually(all_are_slow)
        assert peak.growth < 80 * MIB, f"{peak.growth:,} KiB"
        await readers[0].read_until(lambda: names[-1] in readers[0].names[-1:])
        assert readers[0].names == names


async def test_a_stream_that_does_not_read_costs_little(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """50 MB that the tail read at once for one live stream whose client does not read took 193 MB."""
    redis = await asyncio.to_thread(make_redis, aof=False)
    publisher, instance = [await asyncio.to_thread(make_instance, **on_redis(redis)) for _ in range(2)]
    await warm(instance)
    async with opened(instance, RECEIVE_BUFFER) as reader:
        peak = Peak(instance)
        instance.pause()
        names = list(await publish_large(publisher, 500, 100_000, 10))
        instance.resume()

        async def all_is_read() -> bool:
            counted = await metrics(instance)
            is_slow = counted['realtime_subscribers{state="catching-up"}'] == 1
            return is_slow and counted["realtime_tail_behind_records"] == 0

        await eventually(all_is_read)
        assert peak.growth < 80 * MIB, f"{peak.growth:,} KiB"
        await reader.read_until(lambda: names[-1] in reader.names[-1:])
        assert reader.names == names


async def test_a_read_of_the_tail_is_bounded_in_bytes(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """After a pause, the tail read up to 500 records at once, here 120 MB."""
    redis = await asyncio.to_thread(make_redis, aof=False)
    publisher, instance = [await asyncio.to_thread(make_instance, **on_redis(redis)) for _ in range(2)]
    await warm(instance)
    async with opened(instance) as reader:
        peak = Peak(instance)
        instance.pause()
        names = list(await publish_large(publisher, 500, 240_000, 4))
        instance.resume()
        await reader.read_until(lambda: names[-1] in reader.names[-1:])
        assert reader.names == names
        assert peak.growth < 120 * MIB, f"{peak.growth:,} KiB"


async def test_replays_that_stop_hold_no_pages(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """150 of them kept 212 MB: each its page and the next one, until its client read on."""
    streams = 150
    redis = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    async with AsyncExitStack() as stack:
        cursors = list((await publish_large(instance, 8_000, 2_500, 100)).values())
        await warm(instance)
        peak = Peak(instance)
        for cursor in cursors[:streams]:  # different positions, so that no two read the same page
            stream = open_stream(instance.port, last_event_id=cursor, receive_buffer=RECEIVE_BUFFER)
            reader = Reader(await stack.enter_async_context(stream))
            await reader.read_until(lambda reader=reader: bool(reader.names))  # type: ignore[misc]  # binds the loop variable

        async def is_little() -> bool:
            return peak.kept < 96 * MIB

        await eventually(is_little)


async def test_first_replays_of_large_events(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    """8 readers of large records in a new process took 931 MB."""
    redis = await asyncio.to_thread(make_redis, aof=False)
    publisher = await asyncio.to_thread(make_instance, **on_redis(redis))
    cursors = await publish_large(publisher, 400, 200_000, 5)
    names = list(cursors)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    peak = Peak(instance)

    async def replay(number: int) -> None:
        """Each replays from another position, so that no two read the same page."""
        cursor = cursors[names[number]]
        async with open_stream(instance.port, last_event_id=cursor, receive_buffer=RECEIVE_BUFFER) as stream:
            reader = Reader(stream)
            await reader.read_until(lambda: bool(reader.control))
            assert reader.names == names[number + 1 :]

    async with asyncio.TaskGroup() as tasks:
        for number in range(8):
            tasks.create_task(replay(number))
    assert peak.growth < 120 * MIB, f"{peak.growth:,} KiB"
