"""Redis goes away, comes back, comes back poorer: the tail and its subscribers."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tidewire.delivery.hub import Hub
from tidewire.errors import TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Position, Start
from tidewire.model.partitions import ALL, Partitions
from tidewire.protocol.sse import DATA
from tidewire.transports.appending import Part
from tidewire.transports.base import Log, Receipt, Retention, Transport
from tidewire.transports.log_base import PAGE
from tidewire.transports.redis.layout import APPEND, Layout
from tidewire.transports.redis.streams import RedisStreams

from tests.contract.acts import at, event, head, place, publish, read, seek, start_of, tailing, told
from tests.contract.stores import KEEP_ALL, Backup, RedisStore
from tests.support.processes import MakeRedis, RedisServer
from tests.support.sinks import RecordingSink, subscribed


@pytest.fixture
async def durable(make_redis: MakeRedis) -> AsyncIterator[tuple[RedisServer, RedisStore]]:
    """A Redis that may be killed, with AOF on, and its store."""
    server = make_redis()
    store = RedisStore(server.url)
    yield server, store
    await store.aclose()


async def persist(transport: Transport, data: object) -> Receipt:
    """Publish as a careful publisher does: the same id again until it is acknowledged."""
    one = event(data)
    while True:
        try:
            return (await transport.publish([one]))[0]
        except TransportUnavailable:
            await asyncio.sleep(0.02)


async def kill_tail(store: RedisStore) -> None:
    """Cut the connection of the blocking read."""
    killed = 0
    while not killed:
        for client in await store.client.client_list(_type="normal"):
            if "b" in client["flags"]:
                killed += await store.client.client_kill_filter(_id=client["id"])


async def test_the_tail_resumes_after_a_kill_and_restart(
    durable: tuple[RedisServer, RedisStore],
) -> None:
    server, store = durable
    async with Hub(store.open()) as hub, subscribed(hub) as sink:
        await sink.ready()
        publisher = store.open()

        async def publish_all() -> None:
            for number in range(300):
                await persist(publisher, number)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish_all())
            for number in (50, 150):
                await sink.has(number)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
        await sink.has(299)
    assert sink.data == list(range(300))
    assert sink.gaps == []


async def test_a_cut_tail_connection_misses_nothing(
    redis_store: RedisStore,
) -> None:
    async with Hub(redis_store.open()) as hub, subscribed(hub) as sink:
        await sink.ready()
        for number in range(10):
            await kill_tail(redis_store)
            await publish(hub.transport, number)
            await sink.has(number)
    assert sink.data == list(range(10))
    assert sink.gaps == []


async def test_a_restart_without_data_is_a_gap(
    make_redis: MakeRedis,
) -> None:
    """For live and for later subscribers."""
    server = make_redis(aof=False)
    store = RedisStore(server.url)
    async with Hub(store.open()) as hub:
        async with subscribed(hub) as sink:
            await sink.ready()
            await publish(hub.transport, "old")
            await sink.has("old")
            cursor = sink.cursor
            await asyncio.to_thread(server.restart)
            await persist(hub.transport, "new")
            await sink.has("new")
            async with subscribed(hub, cursor=cursor) as late:
                await late.ready()
        assert sink.order == ["realtime.ready", "old", "realtime.gap", "new"]
        assert late.order == ["realtime.gap", "new", "realtime.ready"]
        assert sink.gaps == late.gaps == ["epoch"]
    await store.aclose()


@pytest.mark.parametrize("counted_again", [0, 1, 2, 3, 4])
async def test_a_reconnecting_tail_notices_a_fallen_back_store(redis_store: RedisStore, counted_again: int) -> None:
    log = redis_store.open()
    await publish(log, "a", "b", "c")
    backup = await redis_store.back_up()
    async with tailing(log, await log.head(("all",))) as (heard, _):
        await publish(log, "lost 4", "lost 5")
        await heard.has("lost 5")
        await _fall_back(redis_store, backup, counted_again)
        await heard.has("<epoch>")
        await publish(log, "end")
        await heard.has("end")
    # What was counted again below the tail's place cannot be told from what it has had: it is part of the gap.
    told_again = [f"other {number}" for number in range(6, 4 + counted_again)]
    assert heard.told == ["lost 4", "lost 5", "<epoch>", *told_again, "end"]


async def test_a_fallen_back_store_is_one_gap_per_reader(
    redis_store: RedisStore,
) -> None:
    async with Hub(redis_store.open()) as hub:
        await publish(hub.transport, "a")
        backup = await redis_store.back_up()
        async with subscribed(hub) as sink:
            await sink.ready()
            await publish(hub.transport, "lost")
            await sink.has("lost")
            await _fall_back(redis_store, backup, 1)
            await sink.until(lambda: sink.gaps == ["epoch"])
            await publish(hub.transport, "live")
            await sink.has("live")
        async with subscribed(hub, cursor=sink.cursor) as again:
            assert await again.ready() == {"recovered": True, "replayed": 0}
    assert sink.gaps == ["epoch"]


async def test_an_outage_accepts_nothing(
    durable: tuple[RedisServer, RedisStore],
) -> None:
    server, store = durable
    url = store.url.replace("redis://", "redis://user:hunter2@")
    log = RedisStreams(url)
    await asyncio.to_thread(server.kill)
    async with Hub(log) as hub:
        for attempt in (
            log.publish([event("refused")]),
            log.head(("all",)),
            log.seek(("all",), None),
            log.ping(),
            hub.add(*NEWCOMER),
        ):
            with pytest.raises(TransportUnavailable) as caught:
                async with asyncio.timeout(10):
                    await attempt
            assert "hunter2" not in str(caught.value)
            assert "127.0.0.1" not in str(caught.value)
        assert hub.fanout.positions == {}
        assert hub.subscribers == set()
    await asyncio.to_thread(server.start)
    assert (await head(store.open())).offset == 0


async def test_an_instance_works_again_after_a_start_without_redis(
    durable: tuple[RedisServer, RedisStore],
) -> None:
    server, store = durable
    await asyncio.to_thread(server.kill)
    async with Hub(store.open()) as hub:
        with pytest.raises(TransportUnavailable):
            await hub.add(*NEWCOMER)
        await asyncio.to_thread(server.start)
        async with subscribed(hub) as sink:
            await sink.ready()
            await publish(hub.transport, 1)
            await sink.has(1)


async def test_a_replay_cut_by_a_crash_goes_on_after_its_last_event(
    durable: tuple[RedisServer, RedisStore],
) -> None:
    server, store = durable
    log = store.open()
    total = 3 * PAGE + 7
    await publish(log, *range(total))
    async with Hub(log) as hub:
        sink = RecordingSink()
        sink.full = True
        async with subscribed(hub, since="earliest", sink=sink):
            await sink.until(lambda: sink.is_waited_for)  # a first part is written
            assert 0 < len(sink.data) < total
            await asyncio.to_thread(server.kill)
            sink.release()
            before = len(sink.chunks)
            await sink.until(lambda: len(sink.chunks) > before + 1)  # it keeps the stream alive
            await asyncio.to_thread(server.start)
            assert (await sink.ready())["recovered"] is True
            await persist(log, "live")
            await sink.has("live")
    assert sink.data == [*range(total), "live"]


async def test_closing_during_reads_leaves_no_connection(
    redis_store: RedisStore,
) -> None:
    await redis_store.client.client_setname("witness")
    deadline = asyncio.get_running_loop().time() + 5
    before = asyncio.all_tasks()
    hub = Hub(redis_store.open())
    async with subscribed(hub) as sink:
        await sink.ready()
        await redis_store.client.client_pause(400)
        coming = [asyncio.create_task(hub.add(*NEWCOMER)) for _ in range(5)]
        reading = asyncio.create_task(read(hub_log(hub), at(Position(1, 0)), at(Position(1, 5))))
        await asyncio.sleep(0.05)  # so that they are waiting for their answers
        for task in (*coming, reading):
            task.cancel()
        await asyncio.gather(*coming, reading, return_exceptions=True)
        await hub.aclose()
    assert asyncio.all_tasks() == before  # so nobody is left who could connect again
    clients = await redis_store.client.client_list()
    while len(clients) > 1 and asyncio.get_running_loop().time() < deadline:  # the server sees it a little later
        clients = await redis_store.client.client_list()
    assert [client["name"] for client in clients] == ["witness"]


async def test_an_idle_log_forgets_its_records_but_not_its_count(redis_store: RedisStore) -> None:
    log = redis_store.open(retention=Retention(age=0.2))
    receipts = await publish(log, 1, 2, 3)
    await redis_store.pass_time(await redis_store.client.pttl("rt:all") / 1_000 + 0.01)
    assert not await redis_store.client.exists("rt:all")
    assert await head(log) == place(receipts[-1])
    assert await seek(log, None) == await seek(log, 0) == place(receipts[-1])
    assert await read(log, at(place(receipts[-1]))) == []
    assert told(await read(log, at(start_of(place(receipts[0]))))) == ["<trimmed>"]
    (again,) = await publish(log, 4)
    assert (place(again).epoch, place(again).offset) == (place(receipts[0]).epoch, 4)
    assert told(await read(log, at(place(receipts[1])))) == ["<trimmed>", 4]
    assert told(await read(log, at(place(receipts[2])))) == [4]


async def test_an_unreadable_entry_is_a_gap_and_the_tail_goes_on(
    redis_store: RedisStore,
) -> None:
    log = redis_store.open()
    client = redis_store.client
    (receipt,) = await publish(log, 1)
    epoch = place(receipt).epoch
    async with tailing(log, at(place(receipt))) as (heard, _):
        await client.xadd("rt:all", {"e": "0badc0de1790000000000{broken"}, id=f"{epoch}-2")
        await client.hset("{rt:all}:meta", "seq", "2")
        await heard.has("<trimmed>")
        await client.config_resetstat()
        await publish(log, 3)  # a tail that asks for the same entry again would ask a thousand times before this
        await heard.has(3)
        stats = await client.info("commandstats")
    assert heard.told == ["<trimmed>", 3]
    assert stats["cmdstat_xread"]["calls"] <= 3
    assert told(await read(log, at(place(receipt)))) == ["<trimmed>", 3]
    assert told(await read(log, at(place(receipt)), at(Position(epoch, 2)))) == ["<trimmed>"]


async def test_a_follow_during_another_interruption_is_read(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = redis_store.open(Partitions(frozenset({"a", "b", "c"})))
    assert isinstance(log, RedisStreams)
    heads = await log.head(("a", "b", "c"))
    unblock = log.unblock
    slow = asyncio.Event()

    async def answer_late(client_id: int) -> bool:
        done = await unblock(client_id)
        if done and not slow.is_set():
            slow.set()
            await asyncio.sleep(0.1)  # the next read is blocked by now
            tail.follow({"c": heads.positions["c"]})
        return done

    monkeypatch.setattr(log, "unblock", answer_late)
    async with tailing(log, at(heads.positions["a"], "a")) as (heard, tail):
        await log.publish([event("a1", type="a")])
        await heard.has("a1")
        tail.follow({"b": heads.positions["b"]})
        await log.publish([event("b1", type="b")])
        await heard.has("b1")
        async with asyncio.timeout(10):
            await slow.wait()
        await log.publish([event("c1", type="c")])
        await heard.until(lambda: "c1" in heard.told, seconds=2.5)  # a blocked read ends after 5 s


async def _fall_back(store: RedisStore, backup: Backup, counted_again: int) -> None:
    """Bring back the older state, count on from it, and cut the tail: all at once, so that nobody looks in between."""
    lost = [event(f"other {number}") for number in range(4, 4 + counted_again)]
    parts = [Part(number, ALL, one, one.key) for number, one in enumerate(lost)]
    commands = [APPEND.in_full(*call) for call in Layout("rt", KEEP_ALL).append("", parts).calls]
    connected = await store.client.client_list(_type="normal")
    commands += [["CLIENT", "KILL", "ID", client["id"]] for client in connected if "b" in client["flags"]]
    await backup(*commands)


def hub_log(hub: Hub) -> Log:
    assert isinstance(hub.transport, Log)
    return hub.transport


NEWCOMER = (Interest(), Start(), DATA)
