"""Revocations reach every process by way of the log: those that listen now, and those that start later."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace

import pytest
from tidewire.delivery.revocations import GuardedHub, Revocation
from tidewire.errors import Unauthorized
from tidewire.model.audience import Interest
from tidewire.model.cursor import Start
from tidewire.model.event import Event, new_id
from tidewire.model.partitions import Partitions
from tidewire.model.permissions import REVOCATIONS
from tidewire.model.record import Gap
from tidewire.protocol.sse import DATA
from tidewire.transports.redis.streams import BLOCK, RedisStreams

from tests.contract.acts import event, publish
from tests.contract.stores import LogStore, MemoryStore, RedisStore, Store
from tests.contract.test_redis_cost import ALLOWED_PER_MINUTE
from tests.contract.watching import watching
from tests.sinks import RecordingSink, subscribed
from tests.waiting import eventually

SCHEME = Partitions(frozenset({"a"}), user_shards=2)
KEEP = 3_600.0 * 24 * 365 * 100  # seconds: the times of these tests are small numbers


def guarded(store: Store) -> GuardedHub:
    return GuardedHub(store.open(SCHEME), SCHEME, keep=KEEP)


@asynccontextmanager
async def admitted(hub: GuardedHub, user_id: str, issued_at: float) -> AsyncIterator[RecordingSink]:
    sink = RecordingSink()
    async with hub.subscribe(Interest(user_id), Start(), DATA) as subscriber:
        hub.admit(subscriber, issued_at)
        subscriber.start(sink)
        await sink.ready()
        yield sink


def revoke(user_id: str, before: float) -> Event:
    return Revocation(user_id, before).event()


async def test_a_revocation_ends_the_users_streams_of_every_process_and_nobody_elses(any_store: Store) -> None:
    async with guarded(any_store) as here, guarded(any_store) as there, AsyncExitStack() as stack:
        old = [await stack.enter_async_context(admitted(hub, "u1", 100)) for hub in (here, there)]
        others = [
            await stack.enter_async_context(admitted(hub, user, issued))
            for hub in (here, there)
            for user, issued in (("u2", 100), ("u1", 200), ("u1", 300))
        ]
        await here.dispatch([revoke("u1", 200)])
        for sink in old:
            await sink.until(lambda sink=sink: sink.ended)  # type: ignore[misc]
            assert [event.data for event in sink.all][-1] == '{"reason":"revoked"}'
        await there.dispatch([event("on")])
        for sink in others:
            await sink.has("on")
            assert sink.order == ["realtime.ready", "on"], "a revocation is nothing that a subscriber hears of"
        for sink in old:
            assert sink.data == []


async def test_a_process_that_starts_later_knows_what_was_revoked_before(store: LogStore) -> None:
    async with guarded(store) as first:
        await first.dispatch([revoke(f"u{n}", n) for n in range(250)])
        await first.dispatch([revoke("u7", 3)])
    async with guarded(store) as later:
        for issued in (0.0, 6.9):
            with pytest.raises(Unauthorized):
                await admitted(later, "u7", issued).__aenter__()
        assert not later.subscribers
        async with admitted(later, "u7", 7), admitted(later, "u300", 0):
            pass
    async with guarded(store) as without_a_tail:
        await without_a_tail.refresh()
        with pytest.raises(Unauthorized):
            without_a_tail.revocations.check("u249", 248)
        without_a_tail.revocations.check("u249", 249)
        without_a_tail.revocations.check(None, 0)
        await without_a_tail.dispatch([revoke("u1", 300)])
        await without_a_tail.refresh()
        with pytest.raises(Unauthorized):
            without_a_tail.revocations.check("u1", 299)


async def test_what_was_revoked_while_nobody_was_subscribed_is_known_to_the_next_subscriber(store: LogStore) -> None:
    async with guarded(store) as hub, guarded(store) as other:
        async with admitted(hub, "u1", 100):
            pass
        assert REVOCATIONS not in hub.fanout.positions, "nobody is here: nothing is followed"
        await other.dispatch([revoke("u1", 200)])
        with pytest.raises(Unauthorized):
            await admitted(hub, "u1", 100).__aenter__()


async def test_a_store_that_lost_what_was_revoked_does_not_bring_a_token_back(store: LogStore) -> None:
    async with guarded(store) as hub:
        await hub.dispatch([revoke("u1", 200)])
        await hub.refresh()
        await store.wipe()
        await hub.dispatch([revoke("u2", 200)])
        await hub.refresh()
        for user in ("u1", "u2"):
            with pytest.raises(Unauthorized):
                hub.revocations.check(user, 100)


async def test_a_revocation_under_a_number_that_is_counted_again_is_heard_of(store: LogStore) -> None:
    async with guarded(store) as hub:
        await hub.dispatch([revoke("u1", 200)])
        restore = await store.back_up()
        await hub.dispatch([revoke("u2", 200)])
        await hub.refresh()
        await restore()
        await hub.dispatch([revoke("u3", 200)])  # the second one once more
        await hub.refresh()
        for user in ("u1", "u2", "u3"):
            with pytest.raises(Unauthorized):
                hub.revocations.check(user, 100)


async def test_after_a_gap_all_revocations_are_read_again(store: LogStore) -> None:
    async with guarded(store) as hub, admitted(hub, "u1", 100) as sink:
        await hub.transport.publish([revoke("u2", 200)])
        with_the_tail_cut = hub.revocations
        head = (await store.open(SCHEME).head((REVOCATIONS,))).positions[REVOCATIONS]
        with_the_tail_cut._before.clear()
        hub._hear(Gap("trimmed", REVOCATIONS, head))
        await eventually(lambda: "u2" in with_the_tail_cut._before)
        await publish(hub.transport, "end")
        await sink.has("end")
        assert sink.order == ["realtime.ready", "end"], "nobody is told of that gap"


async def test_a_record_that_is_no_revocation_is_told_and_stops_nothing(
    store: LogStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with guarded(store) as hub:
        for data in (b'{"secret": 1}', b"[]", b'{"userId": 5, "before": 1}'):
            await hub.dispatch([Event(new_id(), REVOCATIONS, data)])
        await hub.dispatch([revoke("u1", 200)])
        await hub.refresh()
        with pytest.raises(Unauthorized):
            hub.revocations.check("u1", 100)
    assert "is not a revocation" in caplog.text
    assert "secret" not in caplog.text


async def test_what_is_older_than_the_log_keeps_is_forgotten(store: LogStore) -> None:
    async with GuardedHub(store.open(), keep=60.0) as hub:
        await hub.dispatch([revoke("u1", 200)])  # long ago
        await hub.refresh()
        assert hub.revocations._before == {}, "else every user who was ever revoked would be kept for good"


async def test_a_clock_that_jumps_ahead_brings_no_token_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day ahead, as far as this process is concerned: all that was revoked within it was forgotten."""
    async with GuardedHub(MemoryStore().open(), keep=60.0) as hub:
        now = time.time()
        await hub.dispatch([revoke("u1", now)])
        await hub.refresh()
        monkeypatch.setattr(
            "tidewire.delivery.revocations.time", SimpleNamespace(time=lambda: now + 86_400, monotonic=time.monotonic)
        )
        await hub.dispatch([revoke("u2", now + 86_400)])
        await hub.refresh()
        for user in ("u1", "u2"):
            with pytest.raises(Unauthorized):
                hub.revocations.check(user, now - 1)


async def test_following_revocations_costs_an_idle_redis_nothing_more(redis_store: RedisStore) -> None:
    log = RedisStreams(redis_store.url, block=0.2)
    cycles = 5
    async with GuardedHub(log, keep=KEEP) as hub, subscribed(hub, "u1") as one, subscribed(hub, "u2") as two:
        for sink in (one, two):
            await sink.ready()
        async with watching(redis_store.client) as watch, asyncio.timeout(20):
            commands: list[str] = []
            async for command in watch.live():
                commands.append(command[0])
                if commands.count("xread") > cycles:
                    break
    assert set(commands) == {"xread"}
    assert 60 / BLOCK * len(commands) / cycles <= ALLOWED_PER_MINUTE


async def test_the_first_subscriber_of_a_process_where_nobody_was_revoked_costs_one_look_more(
    redis_store: RedisStore,
) -> None:
    log = redis_store.open()
    await publish(log, 1)
    async with (
        GuardedHub(log, keep=KEEP) as hub,
        watching(redis_store.client) as watch,
        subscribed(hub, "u1") as sink,
    ):
        await sink.ready()
        await eventually(lambda: hub.tail_running)
        commands = [command[0] for command in await watch.commands() if command[0] in ("eval", "evalsha", "xrange")]
    assert "xrange" not in commands
    assert commands.count("evalsha") <= 4, "a head for each partition, and the tail's look at both"
