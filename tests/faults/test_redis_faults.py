"""Redis away, silent, emptied or fallen back: streams stay open, publishers hear of it, and a loss is always told."""

import asyncio
import random
import shutil
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import uvloop
from tidewire.model.event import Event
from tidewire.model.record import Gap, Record
from tidewire.transports.errors import ConnectionLost
from tidewire.transports.redis import pool
from tidewire.transports.redis.connection import Address, Connection
from tidewire.transports.redis.streams import RedisStreams

from tests.faults.clients import (
    AGAIN,
    Answer,
    Follower,
    event,
    eventually,
    follow,
    get,
    metrics,
    on_redis,
    open_stream,
    publish,
    publish_all,
    read_page,
    receipts,
)
from tests.faults.stored import read_log
from tests.support.processes import Instance, MakeInstance, MakeRedis, RedisServer
from tests.support.proxy import Proxy
from tests.support.sinks import RecordingSink
from tests.support.waiting import DEADLINE, Growing

RECOVERY = 6.0  # seconds after Redis is back until events flow: the longest backoff (5), and one for the machine
SILENCE = 7.0  # seconds until a publisher hears that Redis does not answer: its time-out (5), and two for the machine

SNAPSHOT = ["kept-1", "kept-2", "kept-3"]
LOST = ["lost-1", "lost-2", "lost-3", "lost-4"]


async def until_ready(instance: Instance) -> None:
    async def is_ready() -> bool:
        return (await get(instance, "/api/health/ready")).status == 200

    await eventually(is_ready)


async def publish_until_accepted(instance: Instance, *drafts: dict[str, Any]) -> Answer:
    """Publish the same events until they are accepted, as a publisher with ids may."""
    async with asyncio.timeout(DEADLINE):
        while (answer := await publish(instance, *drafts)).status != 202:
            answer.assert_unavailable()
            await asyncio.sleep(AGAIN)
    return answer


async def names_in_log(redis: RedisServer) -> list[str]:
    return [record.event["data"]["name"] for record in (await read_log(redis)).get("all", [])]


async def test_while_redis_is_away_publishers_hear_503_and_streams_wait_and_then_nothing_is_lost_or_doubled(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis, REALTIME_HEARTBEAT="200ms"))
    async with follow(instance, userId="ann") as ann, follow(instance) as anonymous:
        await publish_all(instance, ["before"])
        await ann.has("before")
        await asyncio.to_thread(redis.kill)

        (await publish(instance, event("for-ann", "ann"))).assert_unavailable()
        (await publish(instance, event("a"), event("b"))).assert_unavailable()
        (await get(instance, "/api/events", {"accept": "text/event-stream"})).assert_unavailable()
        (await get(instance, "/api/events", {"accept": "application/json"})).assert_unavailable()
        ready = await get(instance, "/api/health/ready")
        ready.assert_unavailable()
        assert "the tail is reconnecting" in ready.json()["detail"]
        assert "Redis cannot be used now" in ready.json()["detail"]
        assert (await get(instance, "/api/health/live")).status == 200
        # Two more heartbeats: the stream is open, and every proxy on the way sees that.
        seen = len(ann.seen.chunks)
        await ann.seen.until(lambda: len(ann.seen.chunks) >= seen + 2)

        await asyncio.to_thread(redis.start)
        began = time.monotonic()
        await until_ready(instance)
        assert await names_in_log(redis) == ["before"], "what was refused was kept all the same"
        for drafts in ([event("for-ann", "ann")], [event("a"), event("b")]):
            told = receipts(await publish_until_accepted(instance, *drafts))
            assert not any(receipt["duplicate"] for receipt in told)
        await ann.has("before", "for-ann", "a", "b")
        assert time.monotonic() - began < RECOVERY
        await anonymous.has("before", "a", "b")
        for follower in (ann, anonymous):
            assert follower.is_open()
            assert follower.seen.gaps == []


async def test_a_batch_that_the_end_of_redis_cuts_is_kept_whole_or_not_at_all(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    """Each time another Redis: one that was killed within a transaction's write keeps its beginning in the append-only
    file, and takes what follows for the rest of it when it is started a second time.
    """
    accepted: set[str] = set()
    sent: set[str] = set()

    async def publish_until_refused(instance: Instance, prefix: str) -> None:
        number, answer = 0, None
        while answer is None or answer.status == 202:
            batch = f"{prefix}-{number}"
            sent.add(batch)
            drafts = [event(f"{batch}/{n}") | {"data": {"text": "x" * 2_000}} for n in range(50)]
            answer = await publish(instance, *drafts)
            if answer.status == 202:
                accepted.add(batch)
            number += 1
        answer.assert_unavailable()

    for round in range(4):
        redis = await asyncio.to_thread(make_redis)
        instance = await asyncio.to_thread(make_instance, **on_redis(redis))
        accepted.clear()
        sent.clear()
        async with asyncio.TaskGroup() as group:
            for publisher in range(4):
                group.create_task(publish_until_refused(instance, f"{round}-{publisher}"))
            # Any moment will do, and each round another one.
            await asyncio.sleep(random.uniform(0.02, 0.15))
            await asyncio.to_thread(redis.kill)
        await asyncio.to_thread(redis.start)

        kept = [record.event["id"] for record in (await read_log(redis)).get("all", ())]
        batches = [id.partition("/")[0] for id in kept[::50]]
        assert kept == [f"{batch}/{n}" for batch in batches for n in range(50)], "a part of a batch, or two interleaved"
        assert accepted <= set(batches) <= sent


async def test_a_stream_in_the_middle_of_its_replay_waits_for_redis_and_reads_on(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    names = [f"event-{number}" for number in range(600)]  # three pages of the log, and more than sockets hold
    for start in range(0, len(names), 30):
        batch = [event(name) for name in names[start : start + 30]]
        receipts(await publish(instance, *(one | {"data": {**one["data"], "x": "x" * 30_000}} for one in batch)))
    async with open_stream(instance.port, {"from": "earliest"}, receive_buffer=4_096) as stream:
        seen = RecordingSink()

        async def read_until(condition: Callable[[], bool]) -> None:
            async with asyncio.timeout(DEADLINE):
                while not condition():
                    chunk = await stream.read()
                    assert chunk is not None
                    seen.write(chunk)

        async def was_interrupted() -> bool:
            return "replay interrupted" in instance.log()

        await read_until(lambda: len(seen.events) > 10)
        await asyncio.to_thread(redis.kill)
        reading = asyncio.create_task(read_until(lambda: bool(seen.all) and seen.all[-1].type == "realtime.ready"))
        await eventually(was_interrupted)
        assert len(seen.events) < len(names)
        await asyncio.to_thread(redis.start)
        await reading
    assert [data["name"] for data in seen.data] == names
    assert (await seen.ready())["recovered"] is True


async def test_while_redis_is_silent_publishers_hear_503_in_bounded_time_and_what_was_on_its_way_comes_once(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    async with follow(instance, userId="ann") as ann:
        await publish_all(instance, ["before"])
        await ann.has("before")
        await asyncio.to_thread(redis.pause)
        began = time.monotonic()
        refused = await asyncio.gather(
            publish(instance, event("single")),
            publish(instance, event("a", "ann"), event("b")),
            get(instance, "/api/health/ready"),
            get(instance, "/api/events", {"accept": "text/event-stream"}),
        )
        assert time.monotonic() - began < SILENCE
        for answer in refused:
            answer.assert_unavailable()
        assert "did not answer" in refused[2].json()["detail"]

        redis.resume()
        # The commands lay in its socket and are carried out now: the same ids make duplicates of the second try.
        await publish_until_accepted(instance, event("single"))
        await publish_until_accepted(instance, event("a", "ann"), event("b"))
        await publish_all(instance, ["after"])
        await ann.seen.until(lambda: "after" in ann.names)
        assert sorted(ann.names) == ["a", "after", "b", "before", "single"]
        assert ann.names.index("a") + 1 == ann.names.index("b")
        assert (ann.seen.gaps, ann.is_open()) == ([], True)


async def test_a_tail_whose_connection_has_died_silently_notices_and_loses_nothing(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = await asyncio.to_thread(make_redis)
    heard = Heard()
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(redis.url))
        direct = RedisStreams(redis.url)
        stack.push_async_callback(direct.aclose)
        monkeypatch.setattr(pool, "TIMEOUT", 0.5)  # seconds, and the blocking read's own before them
        through = RedisStreams(proxy.url, block=0.2)
        stack.push_async_callback(through.aclose)
        head = await direct.head(["all"])
        tail = await stack.enter_async_context(through.on_message(heard.take))
        tail.follow(head.positions)
        await direct.publish([Event("before", "note", b"1")])
        await heard.until(lambda: heard.ids == ["before"])
        await proxy.freeze()
        await direct.publish([Event("meanwhile", "note", b"1"), Event("after", "note", b"1")])
        await heard.until(lambda: len(heard.items) >= 3)
    assert heard.ids == ["before", "meanwhile", "after"]
    assert len(heard.items) == 3, "a gap was told though the log has everything"


class Heard(Growing):
    """What a tail has handed over."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Record | Gap] = []

    def take(self, item: Record | Gap) -> None:
        self.items.append(item)
        self.grow()

    @property
    def ids(self) -> list[str]:
        return [item.event.id for item in self.items if isinstance(item, Record)]

    def __str__(self) -> str:
        return str(self.items)


async def test_connections_that_redis_closes_cost_nobody_anything(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    names = [f"event-{number}" for number in range(20)]
    async with follow(instance) as follower:
        for name in names:
            assert redis.ask("CLIENT KILL TYPE normal").startswith(":")
            await publish_until_accepted(instance, event(name))
        await follower.has(*names)
        assert (follower.seen.gaps, follower.is_open()) == ([], True)


def test_writing_to_a_closed_connection_under_uvloop(redis_url: str) -> None:
    """Uvloop raises RuntimeError on such a write; the pool sends again only after a ConnectionLost."""

    async def write() -> None:
        connection = Connection(Address.parse(redis_url))
        await connection.connect(5.0)
        connection.close()
        with pytest.raises(ConnectionLost):
            await connection.call([["PING"]], 5.0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(write())


async def test_a_wiped_log_is_told_as_a_gap_to_live_streams_and_on_resume_before_any_new_event(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    async with follow(instance) as live:
        await publish_all(instance, ["before"])
        await live.has("before")
        cursor = live.cursor
        assert redis.ask("FLUSHALL") == "+OK"
        await publish_all(instance, ["new-1", "new-2"])
        await live.has("before", "new-1", "new-2")
        assert live.order == ["ready", "before", "gap: epoch", "new-1", "new-2"]
        async with follow(instance, last_event_id=cursor) as resumed:
            assert resumed.order == ["gap: epoch", "new-1", "new-2", "ready after a loss"]
        async with follow(instance, last_event_id=live.cursor) as resumed:
            assert resumed.order == ["ready"]


async def test_a_redis_that_comes_back_empty_is_told_at_once_and_not_with_the_next_event(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    redis = await asyncio.to_thread(make_redis, aof=False)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    async with follow(instance) as live:
        await publish_all(instance, ["before"])
        await live.has("before")
        cursor = live.cursor
        await asyncio.to_thread(redis.kill)
        await asyncio.to_thread(redis.start)
        await live.seen.until(lambda: live.seen.gaps == ["epoch"])
        await publish_all(instance, ["new"])
        await live.has("before", "new")
        assert live.order == ["ready", "before", "gap: epoch", "new"]
        async with follow(instance, last_event_id=cursor) as resumed:
            assert resumed.order == ["gap: epoch", "new", "ready after a loss"]


def fall_back(redis: RedisServer, take_snapshot: bool) -> None:
    """Set the folder of a Redis aside, or bring the one set aside back."""
    aside, folder = redis.folder / "aside", redis.folder / "appendonlydir"
    if take_snapshot:
        shutil.copytree(folder, aside)  # it is idle, and what it has answered is on disk
        return
    redis.kill()
    shutil.rmtree(folder)
    shutil.copytree(aside, folder)
    redis.start()


@pytest.mark.parametrize("again", [0, 2, 4, 6], ids=lambda n: f"{n}-numbers-counted-again")
async def test_a_store_that_fell_back_to_an_older_state_is_told_however_far_it_has_counted_again(
    make_redis: MakeRedis, make_instance: MakeInstance, again: int
) -> None:
    redis = await asyncio.to_thread(make_redis)
    new = [f"new-{number}" for number in range(again)]
    async with Proxy(redis.url) as proxy, AsyncExitStack() as streams:
        there = await asyncio.to_thread(make_instance, **on_redis(redis))
        behind = await asyncio.to_thread(make_instance, **on_redis(redis, REDIS_URL=proxy.url))
        live: Follower = await streams.enter_async_context(follow(behind))
        await publish_all(there, SNAPSHOT)
        await live.has(*SNAPSHOT)
        cursor_before = live.cursor
        await asyncio.to_thread(fall_back, redis, take_snapshot=True)
        await publish_all(there, LOST)
        await live.has(*SNAPSHOT, *LOST)
        cursor_after = live.cursor

        # The instance behind the proxy finds the store only when it has counted on.
        await proxy.refuse()
        await asyncio.to_thread(fall_back, redis, take_snapshot=False)
        assert await names_in_log(redis) == SNAPSHOT
        for name in new:
            await publish_until_accepted(there, event(name))
        await proxy.connect()
        await live.seen.until(lambda: live.seen.gaps == ["epoch"])  # told at once, not with the next event
        await publish_until_accepted(there, event("last"))
        await live.seen.until(lambda: "last" in live.names)
        assert live.order == ["ready", *SNAPSHOT, *LOST, "gap: epoch", *SNAPSHOT, *new, "last"]

        async with follow(there, last_event_id=cursor_after) as resumed:
            assert resumed.order == ["gap: epoch", *SNAPSHOT, *new, "last", "ready after a loss"]
        async with follow(there, last_event_id=cursor_before) as resumed:  # this history is still the store's
            assert resumed.order == [*new, "last", "ready"]


async def test_an_instance_started_while_redis_is_away_is_live_and_not_ready_and_recovers_by_itself(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    redis = await asyncio.to_thread(make_redis)
    await asyncio.to_thread(redis.kill)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    assert (await get(instance, "/api/health/live")).status == 200
    ready = await get(instance, "/api/health/ready")
    ready.assert_unavailable()
    assert "Redis cannot be used now" in ready.json()["detail"]
    (await publish(instance, event("too-early"))).assert_unavailable()
    (await get(instance, "/api/events", {"accept": "text/event-stream"})).assert_unavailable()
    assert (await metrics(instance))['realtime_subscribers{state="catching-up"}'] == 0
    await asyncio.to_thread(redis.start)
    await until_ready(instance)
    async with follow(instance) as follower:
        await publish_all(instance, ["first"])
        await follower.has("first")
        assert follower.order == ["ready", "first"]


async def test_a_full_redis_refuses_publishers_and_serves_streams(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    """Heads and pages need no memory; a node that was demoted promises nothing (`test_planned_failover`)."""
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    async with follow(instance) as live:
        await publish_all(instance, ["before"])
        await live.has("before")
        assert redis.ask("CONFIG SET maxmemory 1") == "+OK"
        (await publish(instance, event("refused"))).assert_unavailable()
        async with follow(instance, **{"from": "earliest"}) as late:
            assert late.names[0] == "before"
            assert late.seen.gaps == []
        assert "OOM" in (await get(instance, "/api/health/ready")).json()["detail"]
        assert redis.ask("CONFIG SET maxmemory 0") == "+OK"
        assert "refused" not in await names_in_log(redis)
        await publish_until_accepted(instance, event("after"))
        await live.has("before", "after")
        assert (live.seen.gaps, live.is_open()) == ([], True)


async def test_json_pages_tell_a_wiped_log_as_streams_do(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    redis = await asyncio.to_thread(make_redis)
    instance = await asyncio.to_thread(make_instance, **on_redis(redis))
    await publish_all(instance, ["before"])
    page = await read_page(instance, **{"from": "earliest"})
    assert redis.ask("FLUSHALL") == "+OK"
    await publish_all(instance, ["new"])
    page = await read_page(instance, last_event_id=page["cursor"])
    assert page["gap"] == {"reason": "epoch", "recovered": False}
    assert [found["data"]["name"] for found in page["events"]] == ["new"]
