"""While the log is away: whose token was revoked, and how much a key may publish."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from tidewire.delivery.revocations import GuardedHub, Revocation
from tidewire.errors import Unauthorized
from tidewire.model.audience import Interest
from tidewire.model.cursor import Start
from tidewire.protocol.sse import CLOSING, DATA
from tidewire.transports.fallback.fallback import Fallback
from tidewire.transports.redis.streams import RedisStreams

from tests.clocks import virtual_time
from tests.contract.acts import event
from tests.contract.stores import MemoryStore
from tests.fallback.away import AwayLog
from tests.sinks import RecordingSink
from tests.waiting import eventually

KEEP = 1e12  # seconds: the times of these tests are small numbers


async def _sent_away(sink: RecordingSink) -> None:
    await sink.until(lambda: sink.ended)
    assert sink.order == [CLOSING]


@virtual_time
async def test_who_came_while_the_log_was_away_is_sent_away_as_soon_as_the_revocation_can_be_read() -> None:
    store = MemoryStore()
    async with GuardedHub(store.open(), keep=KEEP) as elsewhere:
        await elsewhere.dispatch([Revocation("u1", 200).event()])
        log = AwayLog(store.open())
        log.leave()
        async with GuardedHub(Fallback(log), keep=KEEP) as hub:
            old, new = RecordingSink(), RecordingSink()
            async with (
                hub.subscribe(Interest("u1"), Start(), DATA, patient=True) as one,
                hub.subscribe(Interest("u1"), Start(), DATA, patient=True) as two,
            ):
                for subscriber, sink, issued_at in ((one, old, 100), (two, new, 300)):
                    hub.admit(subscriber, issued_at)
                    subscriber.start(sink)
                log.come_back()
                await old.until(lambda: old.ended)
                assert old.all[-1].data == '{"reason":"revoked"}'
                await new.ready()  # the store's clock stands still: before it, this event would be of an earlier time
                await hub.dispatch([event("on")])
                await new.has("on")
            with pytest.raises(Unauthorized):
                hub.revocations.check("u1", 100)


@virtual_time
async def test_nothing_is_replayed_to_who_was_revoked_elsewhere_however_long_the_log_was_away() -> None:
    store = MemoryStore()
    async with GuardedHub(store.open(), keep=KEEP) as elsewhere:
        await elsewhere.dispatch([event("theirs", users=["u1"]), Revocation("u1", 200).event()])
        log = AwayLog(store.open())
        log.leave()
        async with GuardedHub(Fallback(log), keep=KEEP) as hub:
            sinks = [RecordingSink() for _ in range(20)]  # each comes back to the log at a moment of its own
            async with AsyncExitStack() as streams:
                for sink in sinks:
                    subscription = hub.subscribe(Interest("u1"), Start(since="earliest"), DATA, patient=True)
                    subscriber = await streams.enter_async_context(subscription)
                    hub.admit(subscriber, 100)
                    subscriber.start(sink)
                await asyncio.sleep(60)  # the tries to read the revocations are seconds apart by now
                log.come_back()
                await asyncio.gather(*map(_sent_away, sinks))


@virtual_time
async def test_after_all_have_left_while_the_log_was_away_nothing_is_followed() -> None:
    log = AwayLog(MemoryStore().open())
    log.leave()
    async with GuardedHub(Fallback(log), keep=KEEP) as hub:
        async with hub.subscribe(Interest("u1"), Start(), DATA, patient=True):
            pass
        log.come_back()
        assert hub._again is not None
        await eventually(hub._again.done)
        assert hub.fanout.positions == {}


async def test_a_rate_goes_on_in_this_process_while_redis_is_away() -> None:
    fallback = Fallback(RedisStreams("redis://127.0.0.1:9"))  # nothing answers there
    assert await fallback.take("k", 2, 3, 1_000.0) == 0
    assert await fallback.take("k", 2, 3, 1_000.0) > 0
    await fallback.aclose()
