"""The cost of polls over REST: each command is billed."""

import asyncio

import pytest
from tidewire.delivery.hub import Hub
from tidewire.model.cursor import Cursor, Position
from tidewire.model.partitions import ALL, Partitions
from tidewire.model.permissions import REVOCATIONS

from tests.contract.acts import Received, at, publish, tailing
from tests.contract.stores import UpstashStore
from tests.support.clocks import pass_time, virtual_time
from tests.support.sinks import subscribed
from tests.support.upstash_ledger import make_log
from tests.support.upstash_stand_in import StandIn
from tests.support.waiting import eventually

HOUR = 3_600.0


@virtual_time
async def test_an_idle_hour_costs_720_commands() -> None:
    log, ledger = make_log()
    async with tailing(log, at(Position(1, 0))):
        await pass_time(60)
        ledger.commands.clear()
        await pass_time(HOUR)
    assert 690 <= ledger.commands.total() <= 720
    assert 55 <= ledger.commands["EVALSHA"] <= 60, "the heads are read once per minute, instead of a poll"


@virtual_time
async def test_further_partitions_cost_an_idle_hour_nothing_more() -> None:
    log, ledger = make_log()
    places = {name: Position(1, 0) for name in (ALL, f"{ALL}:u3", REVOCATIONS)}
    async with tailing(log, Cursor(places)):
        await pass_time(60)
        ledger.commands.clear()
        await pass_time(HOUR)
    assert 690 <= ledger.commands.total() <= 720


@virtual_time
async def test_an_hour_without_subscribers_costs_nothing() -> None:
    log, ledger = make_log()
    async with tailing(log) as (_, tail):
        await pass_time(HOUR)
        assert ledger.times == []
        tail.follow(at(Position(1, 0)).positions)
        await pass_time(60)
        tail.unfollow((ALL,))
        await pass_time(1)  # until a running poll has ended
        asked = len(ledger.times)
        assert asked > 0
        await pass_time(HOUR)
        assert len(ledger.times) == asked


@virtual_time
async def test_an_hour_of_traffic_costs_one_command_per_poll() -> None:
    log, ledger = make_log(every=0.1)
    received = Received()
    async with log.on_message(received) as tail:
        tail.follow(at(Position(1, 0)).positions)
        await pass_time(60)
        assert ledger.commands.total() <= 60 / 0.25
        assert len(received.items) >= 60 / 0.1 - 5


@virtual_time
async def test_polls_slow_down_step_by_step_after_a_record() -> None:
    log, ledger = make_log(every=100.0)
    received = Received()
    async with log.on_message(received) as tail:
        tail.follow(at(Position(1, 0)).positions)
        await received.until(lambda: bool(received.items), 120)
        ledger.times.clear()
        await pass_time(30)
    gaps = [round(later - sooner, 2) for sooner, later in zip(ledger.times, ledger.times[1:], strict=False)]
    assert gaps[0] < 0.5
    assert gaps[-1] == pytest.approx(5.0, abs=0.05)
    assert gaps == sorted(gaps)


@virtual_time
async def test_constant_wake_calls_do_not_exceed_the_fastest_poll() -> None:
    log, ledger = make_log()
    async with log.on_message(Received()) as tail:
        tail.follow(at(Position(1, 0)).positions)
        for _ in range(1_000):
            tail.wake()
            await pass_time(0.01)
    assert ledger.commands.total() <= 10 / 0.25 + 2


@virtual_time
async def test_an_own_event_does_not_wait_for_a_slow_poll() -> None:
    log, _ = make_log()
    async with tailing(log, at(Position(1, 0))) as (received, _):
        await pass_time(63)
        for number in (1, 2):
            await publish(log, "new")
            await pass_time(0.3)
            assert len(received.items) == number
            await pass_time(60)


@virtual_time
async def test_a_head_after_the_tails_position_wakes_it() -> None:
    log, _ = make_log(every=102.0)
    async with tailing(log, at(Position(1, 0))) as (received, _):
        await eventually(lambda: asyncio.get_running_loop().time() >= 102, 120)
        await log.head((ALL,))  # as a new subscriber does
        await pass_time(0.1)
        assert len(received.items) == 1


async def test_a_poll_is_one_command_for_all_partitions(upstash_store: UpstashStore, upstash: StandIn) -> None:
    scheme = Partitions(frozenset({"a", "b"}), user_shards=4)
    async with (
        Hub(upstash_store.open(scheme), scheme) as hub,
        subscribed(hub, "u1") as one,
        subscribed(hub, "u2", {"a"}) as two,
        subscribed(hub) as three,
    ):
        for sink in (one, two, three):
            await sink.ready()
        upstash.requests.clear()
        await eventually(lambda: upstash.commands["XREAD"] >= 10)
        asked = list(upstash.requests)
        assert all(len(request.commands) == 1 for request in asked)
        (streams,) = {tuple(command[4:]) for request in asked for command in request.commands}
        assert len(streams) == 2 * len(hub.fanout.positions)


async def test_polls_share_one_connection(upstash_store: UpstashStore, upstash: StandIn) -> None:
    log = upstash_store.open()
    async with tailing(log, await log.head((ALL,))) as (received, _):
        await eventually(lambda: upstash.commands["XREAD"] >= 20)
        await publish(log, "end")
        await received.has("end")
    assert upstash.connections <= 2


async def test_without_subscribers_nothing_polls(upstash_store: UpstashStore, upstash: StandIn) -> None:
    async with Hub(upstash_store.open()) as hub:
        async with subscribed(hub) as sink:
            await sink.ready()
            await eventually(lambda: upstash.commands["XREAD"] >= 3)
        with StandIn(upstash.redis_port) as another:
            witness = UpstashStore(upstash_store.url, another)
            async with Hub(witness.open()) as other, subscribed(other):
                await eventually(lambda: another.commands["XREAD"] >= 2)  # a running poll has ended by now
                asked = len(upstash.requests)
                await eventually(lambda: another.commands["XREAD"] >= 10)
                assert len(upstash.requests) == asked
            await witness.aclose()
