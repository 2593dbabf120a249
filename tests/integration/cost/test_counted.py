"""The model's command counts against the commands that Redis and the stand-in of REST receive."""

import asyncio
import io
import logging
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from tidewire.delivery.hub import Hub
from tidewire.delivery.limits import PublishRate
from tidewire.delivery.revocations import Revocations
from tidewire.http.stream_server import CHECK_SECONDS, CHECKS_PER_REPORT, LAG_NAMESPACE
from tidewire.model.audience import Interest
from tidewire.model.cursor import Position, Start, encode
from tidewire.model.event import MAX_USER_IDS, Event, new_id
from tidewire.model.partitions import ALL, Partitions
from tidewire.model.record import Record, pack
from tidewire.monitoring.cloudwatch import Sample, write
from tidewire.monitoring.logs import JsonLines, log_fields
from tidewire.protocol import publish_request
from tidewire.protocol.json_page import DATA_PAGE, MAX_EVENTS, Page, plain
from tidewire.protocol.sse import DATA
from tidewire.settings.config import LAMBDA_STREAM_SECONDS, MAX_PARTITION_TYPES, MAX_USER_SHARDS, Settings
from tidewire.settings.variables import Rate
from tidewire.tools.cost import commands, modes, store
from tidewire.tools.cost.workload import LIMITS, MAX_AUDIENCE, MAX_REQUEST_BYTES, Transport, Workload
from tidewire.transports import log_base
from tidewire.transports.base import Log
from tidewire.transports.redis import streams
from tidewire.transports.upstash import rest_log, tail

from tests.contract.acts import at, event, publish, tailing
from tests.contract.stores import RedisStore, UpstashStore
from tests.support.clocks import pass_time, virtual_time
from tests.support.processes import ROOT
from tests.support.redis_monitor import Watch, watching
from tests.support.sinks import RecordingSink, subscribed
from tests.support.upstash_ledger import make_log
from tests.support.waiting import eventually

HOUR = 3_600.0
SCHEMES = [Partitions(), Partitions(user_shards=64), Partitions(frozenset({"a", "b"}), 64)]
SCHEME_IDS = ["one-partition", "shards", "types-and-shards"]
"""Each further user has a shard of their own: u1, u2 and u3 are in three of the 64."""


def load_of(scheme: Partitions, transport: Transport = "redis-tcp", **numbers: Any) -> Workload:
    """A workload with this partition scheme."""
    return Workload(1, 1, partitions=len(scheme.types), shards=scheme.user_shards, transport=transport, **numbers)


async def received(redis_store: RedisStore, watch: Watch) -> Counter[str]:
    """Count the commands since the last call; MONITOR omits CLIENT UNBLOCK, an administrative command."""
    counted = Counter(command[0] for command in await watch.commands())
    stats = await redis_store.client.info("commandstats")
    counted["unblock"] = stats.get("cmdstat_client|unblock", {}).get("calls", 0)
    await redis_store.client.config_resetstat()
    await watch.commands()
    return counted


@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize("rate", [None, Rate(1_000_000, 1.0)], ids=["no-rate", "rate"])
async def test_a_publication_is_one_command_or_two_with_a_rate(
    redis_store: RedisStore, size: int, rate: Rate | None
) -> None:
    log = redis_store.open()
    limit = PublishRate(rate, log)
    await limit.take(None, 1)
    await publish(log, "the first ones load the scripts")
    async with watching(redis_store.client) as watch:
        await received(redis_store, watch)
        for _ in range(3):
            await limit.take(None, size)
            await log.publish([event(number) for number in range(size)])
        counted = await received(redis_store, watch)
    load = Workload(1, 3 * size, batch=size, rate_limited=rate is not None)
    assert counted.total() == commands.publishing(load)


async def test_a_publication_is_one_command_per_shard_of_its_users(redis_store: RedisStore) -> None:
    scheme = Partitions(user_shards=16)
    log = redis_store.open(scheme)
    await publish(log, "the first one loads the script")
    users, size, requests = 60, 10, 6
    async with watching(redis_store.client) as watch:
        await received(redis_store, watch)
        for start in range(0, users, size):
            await log.publish([event(number, users=[f"user-{number}"]) for number in range(start, start + size)])
        counted = await received(redis_store, watch)
    load = Workload(users, users, 1, batch=size, shards=16)
    assert load.requests == requests
    assert counted.total() == commands.publishing(load), "numbered users' hashes are spread evenly"


async def test_a_batch_is_one_command_per_partition(redis_store: RedisStore) -> None:
    scheme = Partitions(frozenset({"a", "b"}))
    log = redis_store.open(scheme)
    await publish(log, "the first one loads the script")
    async with watching(redis_store.client) as watch:
        await received(redis_store, watch)
        await log.publish([event(number, type="abcd"[number % 4]) for number in range(12)])
        await log.publish([event(number, type="abcd"[number % 4]) for number in range(12)])
        counted = await received(redis_store, watch)
    assert counted.total() == commands.publishing(Workload(1, 24, batch=12, partitions=2)) == 6


@pytest.mark.parametrize("scheme", SCHEMES, ids=SCHEME_IDS)
async def test_streams_open_with_the_commands_of_the_model(redis_store: RedisStore, scheme: Partitions) -> None:
    publisher = redis_store.open(scheme)
    await publish(publisher, "the first one loads the script")
    await publisher.head((ALL,))
    load = load_of(scheme)
    async with watching(redis_store.client) as watch:
        await received(redis_store, watch)
        async with guarded(redis_store.open(scheme), scheme) as hub, subscribed(hub, "u1") as first:
            await settle(hub, publisher, first)
            alone = await received(redis_store, watch)
            async with subscribed(hub, "u2") as second:
                await settle(hub, publisher, second)
                among = await received(redis_store, watch)
            known = Counter[str]()
            async with subscribed(hub, "u1") as again:
                await again.ready()
                known = await received(redis_store, watch)
    # How often CLIENT UNBLOCK is tried depends on the machine: every 5 ms while a read is still on its way.
    unblocked = alone.pop("unblock") + among.pop("unblock")
    assert unblocked > 0 or not scheme.user_shards
    reads_and_sentinel = 2 + 1  # one ends with the sentinel, one begins after it; the sentinel's publication
    assert alone.total() - reads_and_sentinel <= commands.opening_alone(load) - 2
    followed = commands.partitions(load) + commands.CONTROL
    assert followed < alone["evalsha"] - 1 <= 2 * followed, "the tail verifies what it follows when it connects"
    assert among.total() - reads_and_sentinel <= commands.opening_among_others(load) - bool(scheme.user_shards)
    assert among["evalsha"] - 1 >= commands.partitions(load)
    assert known["evalsha"] == commands.partitions(load), "whose shard is followed already costs the heads alone"


def guarded(log: Log, scheme: Partitions) -> Hub:
    """A hub that follows revocations, as each that requires tokens does."""
    return Hub(log, scheme, revocations=Revocations(log, 60))


async def settle(hub: Hub, publisher: Log, sink: RecordingSink) -> None:
    """Return when the tail has read everything, and waits again."""
    await sink.ready()
    await eventually(lambda: hub.tail_running)
    await publish(publisher, "settled")
    await sink.has("settled")


@pytest.mark.parametrize("scheme", SCHEMES, ids=SCHEME_IDS)
async def test_a_poll_reads_the_heads_and_a_page_if_needed(redis_store: RedisStore, scheme: Partitions) -> None:
    log = redis_store.open(scheme)
    await publish(log, "the first one loads the script")
    await log.head((ALL,))
    heads = commands.polling(load_of(scheme))
    async with guarded(redis_store.open(scheme), scheme) as hub, watching(redis_store.client) as watch:
        cursor = await poll(hub, None)
        await received(redis_store, watch)
        await poll(hub, cursor)
        assert await received(redis_store, watch) == {"evalsha": heads, "unblock": 0}
        await publish(log, *range(3))
        await received(redis_store, watch)
        assert await poll(hub, cursor) != cursor
        assert await received(redis_store, watch) == {"evalsha": heads, "xrange": 1, "unblock": 0}


async def poll(hub: Hub, cursor: str | None) -> str:
    """The cursor after one poll that does not wait, as `Sessions.read_page` reads it."""
    page = Page(cursor)
    await hub.read(Interest("u1"), Start(cursor), DATA_PAGE, page)
    assert page.cursor is not None
    return page.cursor


@pytest.mark.parametrize("scheme", SCHEMES, ids=SCHEME_IDS)
async def test_a_poll_that_waits_costs_no_more_than_the_model(redis_store: RedisStore, scheme: Partitions) -> None:
    publisher = redis_store.open(scheme)
    await publish(publisher, "the first one loads the script")
    await publisher.head((ALL,))
    load = load_of(scheme, poll_wait=20)
    async with guarded(redis_store.open(scheme), scheme) as hub, watching(redis_store.client) as watch:
        cursor, maximum = None, 0
        for number in range(4):
            await received(redis_store, watch)
            page = Page(cursor)
            async with hub.subscribe(Interest("u1"), Start(cursor), DATA_PAGE) as subscriber:
                subscriber.start(page)
                await page.replayed.wait()
                await publish(publisher, number)
                await page.settled.wait()
                cursor = page.cursor
            counted = await received(redis_store, watch)
            counted.pop("unblock")
            maximum = max(maximum, counted.total() - 1) if number else 0  # the first one opens the connection
    heads = commands.partitions(load) + commands.CONTROL
    assert heads + 1 <= maximum <= commands.polling(load) - 2


async def test_a_tail_reads_per_arrival_and_per_block(redis_store: RedisStore) -> None:
    block, arrivals, ends = 0.1, 20, 4
    publisher = redis_store.open()
    await publish(publisher, "the first one loads the script")
    redis_store.BLOCK = HOUR
    async with tailing(redis_store.open(), await publisher.head((ALL,))) as (records, _):
        await publish(publisher, "start")
        await records.has("start")
        async with watching(redis_store.client) as watch:
            for number in range(arrivals):
                await publish(publisher, number)
                await records.has(number)
            await publish(publisher, "end")
            await records.has("end")
            counted = Counter(command[0] for command in await watch.commands())
    hours = arrivals / HOUR
    assert arrivals <= counted["xread"] <= arrivals + 2
    assert commands.blocking_reads(hours, HOUR) * HOUR == pytest.approx(arrivals), "long blocks: one per arrival"
    redis_store.BLOCK = block
    async with tailing(redis_store.open(), await publisher.head((ALL,))), watching(redis_store.client) as watch:
        moments: list[float] = []
        async for command in watch.live():
            if command[0] == "xread":
                moments.append(asyncio.get_running_loop().time())
                if len(moments) > ends:
                    break
    seconds = (moments[-1] - moments[0]) / ends
    assert seconds >= block * 0.8, "a busy machine may be late, and cannot be early"
    assert commands.blocking_reads(0, block) == pytest.approx(1 / block)


def test_an_idle_hour_is_180_commands_by_tcp_and_60_by_rest() -> None:
    assert commands.blocking_reads(0) * HOUR == pytest.approx(120)
    idle = commands.following(Workload(1, 1, transport="redis-tcp"), commands.Reading(0, 0))
    assert idle * HOUR == pytest.approx(120 + 60)
    rest = Workload(1, 1, transport="upstash-rest")
    assert commands.following(rest, commands.Reading(0, 0)) * HOUR == pytest.approx(60)
    assert commands.following(rest, commands.Reading(1e6, 1e6)) * HOUR == pytest.approx(14_400 + 60)


@pytest.mark.parametrize(("every", "hours"), [(300.0, 2), (10.0, 0.4), (1.0, 0.1), (0.05, 0.1)])
def test_reads_over_rest_follow_the_rings(every: float, hours: float) -> None:
    chance = random.Random(7)
    moments, now = [], 0.0
    while now < hours * HOUR:
        now += chance.expovariate(1 / every)
        moments.append(now)

    @virtual_time
    async def count() -> None:
        log, ledger = make_log(moments=moments)
        async with tailing(log, at(Position(1, 0))):
            await pass_time(hours * HOUR)
        counted.append(ledger.commands.total())

    counted: list[int] = []
    count()
    arrivals = len(moments) / hours / HOUR
    expected = commands.following(Workload(1, 1, transport="upstash-rest"), commands.Reading(arrivals, arrivals)) * HOUR
    assert counted[0] / hours == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize("scheme", SCHEMES[::2], ids=SCHEME_IDS[::2])
async def test_over_rest_partitions_cost_nothing(upstash_store: UpstashStore, scheme: Partitions) -> None:
    publisher = upstash_store.open(scheme)
    await publish(publisher, "the first one loads the script")
    await publisher.head((ALL,))
    load = load_of(scheme, "upstash-rest")
    upstash_store.POLL = (60.0, 60.0)  # only polls after a wake
    upstash_store.upstash.requests.clear()
    async with guarded(upstash_store.open(scheme), scheme) as hub:
        async with subscribed(hub, "u1") as first:
            await first.ready()
            await eventually(lambda: hub.tail.bell_heard)
            assert upstash_store.upstash.commands.total() == commands.opening_alone(load)
            upstash_store.upstash.requests.clear()
            async with subscribed(hub, "u2") as second:
                await second.ready()
            assert 1 <= upstash_store.upstash.commands.total() <= commands.opening_among_others(load)
        await poll(hub, None)
        upstash_store.upstash.requests.clear()
        await poll(hub, None)
        assert upstash_store.upstash.commands == {"EVALSHA": commands.polling(load)}


@virtual_time
async def test_over_rest_a_waiting_poll_subscribes() -> None:
    """Besides two reads of the heads."""
    seconds = 20.0
    log, ledger = make_log()
    async with tailing(log) as (_, tail):
        tail.follow(at(Position(1, 0)).positions)
        await pass_time(seconds)
        tail.unfollow((ALL,))
        first = ledger.commands.total()
        await pass_time(60)
        ledger.commands.clear()
        tail.follow(at(Position(1, 0)).positions)
        await pass_time(seconds)
        again = ledger.commands.total()
    load = load_of(Partitions(), "upstash-rest", poll_wait=seconds)
    assert max(first, again) <= commands.polling(load) - 2 <= max(first, again) + 2


def test_the_model_uses_the_limits_of_the_code() -> None:
    assert (commands.BLOCK, commands.HEADS) == (streams.BLOCK, streams.CHECK_HEADS)
    assert commands.POLL_MIN == rest_log.POLL_MIN
    assert commands.HEADS == tail.VERIFY
    assert commands.PAGE == log_base.PAGE
    assert modes.PAGE_EVENTS == MAX_EVENTS
    assert modes.LAG_SECONDS == CHECK_SECONDS * CHECKS_PER_REPORT
    assert MAX_AUDIENCE == MAX_USER_IDS
    assert LIMITS["batch"][1] == publish_request.MAX_EVENTS
    assert LIMITS["event_bytes"][1] == publish_request.MAX_EVENT_BYTES
    assert MAX_REQUEST_BYTES == publish_request.MAX_BODY_BYTES
    assert LIMITS["shards"][1] == MAX_USER_SHARDS
    assert LIMITS["partitions"][1] == MAX_PARTITION_TYPES
    usual, settings = Workload(0, 0), Settings()
    assert settings.heartbeat == modes.HEARTBEAT_SECONDS
    assert settings.retry == commands.RECONNECT_SECONDS
    assert usual.retention_hours * HOUR == settings.retention
    assert usual.stream_seconds == LAMBDA_STREAM_SECONDS


def test_the_model_uses_the_template_s_memory_and_quota() -> None:
    template = (ROOT / "serverless.yml").read_text()
    assert f"memorySize: {Workload(0, 0).memory}\n" in template
    assert f"a new account has only {modes.LAMBDA_ENVIRONMENTS} concurrent environments" in template


def line(message: str, **fields: object) -> int:
    """The bytes of a log line."""
    made = {"name": "tidewire.requests", "levelname": "INFO", "msg": message, "created": 1.8e9, "msecs": 1.0}
    return len(JsonLines().format(logging.makeLogRecord({**made, **log_fields(**fields)})))


def test_the_model_s_bytes_match_real_frames_and_records() -> None:
    place = Position(1_795_662_848_482, 123_456, "0123abcd", 1_795_662_848_482)
    data = b'"' + b"x" * 298 + b'"'
    record = Record(Event(new_id(), "task-updated", data, ("user-1234",)), ALL, place)
    cursor = encode({ALL: place, f"{ALL}:u3812": place}, place.time)
    request = line("request", request_id="x" * 32, method="POST", route="/api/publish", status=202, ms=12.5)
    lag = io.StringIO()
    write(LAG_NAMESPACE, "tidewire-prod-stream", [Sample("TailLag", "Seconds", 0.123)], output=lag)
    measured: Sequence[tuple[float, int]] = [
        (modes.FRAME_BYTES, len(DATA.record(cursor, record)) - len(data)),
        (modes.HEARTBEAT_BYTES, len(DATA.heartbeat(cursor))),
        (modes.ITEM_BYTES, len(plain(record)) - len(data)),
        (store.RECORD_BYTES, len(pack(record.event)) + len("0123abcd1795662848482") - len(data)),
        (modes.REQUEST_LOG_BYTES, request),
        (modes.LAG_LOG_BYTES, len(lag.getvalue())),
    ]
    for modelled, real in measured:
        assert real <= modelled <= 1.5 * real, measured


async def test_an_event_in_redis_fits_the_model_s_bytes(redis_store: RedisStore) -> None:
    log = redis_store.open()
    await publish(log, "the first one loads the script")
    before = (await redis_store.client.info("memory"))["used_memory_dataset"]
    data, count = "x" * 298, 1_000
    await publish(log, *[data] * count)
    kept = ((await redis_store.client.info("memory"))["used_memory_dataset"] - before) / count
    assert 0.5 * (300 + store.STORED_BYTES) <= kept <= 300 + store.STORED_BYTES
