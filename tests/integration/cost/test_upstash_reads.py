"""The cost of reading over REST, on rings and in polls: each command is billed."""

import asyncio

import pytest
from tidewire.delivery.hub import Hub
from tidewire.model.cursor import Cursor, Position
from tidewire.model.partitions import ALL, Partitions
from tidewire.model.permissions import REVOCATIONS
from tidewire.transports.upstash.tail import AFTER_RING, BURST

from tests.contract.acts import Received, at, publish, tailing
from tests.contract.stores import UpstashStore
from tests.support.clocks import pass_time, virtual_time
from tests.support.sinks import subscribed
from tests.support.upstash_ledger import make_log
from tests.support.upstash_stand_in import Fault, StandIn
from tests.support.waiting import eventually

HOUR = 3_600.0
NO_STREAM = Fault(404)  # of SUBSCRIBE: the tail polls


@virtual_time
async def test_an_idle_hour_costs_60_commands() -> None:
    """A read of the heads per minute, which also rings for the reader itself."""
    log, ledger = make_log()
    async with log.on_message(Received()) as tail:
        tail.follow(at(Position(1, 0)).positions)
        await pass_time(60)
        assert tail.bell_heard
        ledger.commands.clear()
        await pass_time(HOUR)
    assert 59 <= ledger.commands.total() <= 60
    assert set(ledger.commands) == {"EVALSHA"}


@virtual_time
@pytest.mark.parametrize("minutes", [5, 10])
async def test_streams_that_are_cut_cost_two_commands_each(minutes: int) -> None:
    """No duration of a stream is documented; a proxy in front of it may have one."""
    log, ledger = make_log()
    async with tailing(log, at(Position(1, 0))):
        await pass_time(60)
        ledger.commands.clear()
        for _ in range(60 // minutes):
            await pass_time(minutes * 60)
            ledger.cut()
        await pass_time(1)
    assert ledger.commands["SUBSCRIBE"] == 60 // minutes
    assert ledger.commands.total() <= 60 + 2 * 60 / minutes
    assert ledger.commands["XREAD"] == 0


@virtual_time
async def test_an_idle_hour_of_polls_costs_720_commands() -> None:
    log, ledger = make_log()
    ledger.refuses_streams = True
    async with tailing(log, at(Position(1, 0))):
        await pass_time(60)
        ledger.commands.clear()
        await pass_time(HOUR)
    assert 690 <= ledger.commands.total() - ledger.commands["SUBSCRIBE"] <= 720
    assert 55 <= ledger.commands["EVALSHA"] <= 60, "the heads are read once per minute, instead of a poll"
    assert ledger.commands["SUBSCRIBE"] <= 6


@virtual_time
async def test_further_partitions_cost_an_idle_hour_nothing_more() -> None:
    log, ledger = make_log()
    places = {name: Position(1, 0) for name in (ALL, f"{ALL}:u3", REVOCATIONS)}
    async with tailing(log, Cursor(places)):
        await pass_time(60)
        ledger.commands.clear()
        await pass_time(HOUR)
    assert 59 <= ledger.commands.total() <= 60


@virtual_time
async def test_an_event_that_comes_alone_costs_one_command() -> None:
    log, ledger = make_log(moments=[200.0 + 137 * number for number in range(10)])
    async with tailing(log, at(Position(1, 0))) as (received, _):
        await pass_time(100)
        ledger.commands.clear()
        await pass_time(HOUR)
    assert len(received.items) == 10
    assert ledger.commands["XREAD"] == 10
    assert ledger.commands["EVALSHA"] <= 60


@virtual_time
async def test_an_hour_without_subscribers_costs_nothing() -> None:
    log, ledger = make_log()
    async with tailing(log) as (_, tail):
        await pass_time(HOUR)
        assert ledger.times == []
        tail.follow(at(Position(1, 0)).positions)
        await pass_time(60)
        assert len(ledger.streams) == 1
        tail.unfollow((ALL,))
        await pass_time(1)  # until a running read has ended
        assert ledger.streams == []
        asked = len(ledger.times)
        assert asked > 0
        await pass_time(HOUR)
        assert len(ledger.times) == asked


@virtual_time
@pytest.mark.parametrize("refuses", [False, True], ids=["heard", "polls"])
async def test_an_hour_of_traffic_costs_one_command_per_poll(refuses: bool) -> None:
    log, ledger = make_log(every=0.1)
    ledger.refuses_streams = refuses
    received = Received()
    async with log.on_message(received) as tail:
        tail.follow(at(Position(1, 0)).positions)
        await pass_time(60)
        assert ledger.commands.total() <= 60 / 0.25 + BURST + 12 + 3
        assert len(received.items) >= 60 / 0.1 - 5


@virtual_time
async def test_polls_slow_down_step_by_step_after_a_record() -> None:
    log, ledger = make_log(every=100.0)
    ledger.refuses_streams = True
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
async def test_constant_rings_do_not_exceed_the_fastest_poll() -> None:
    """Each read is billed; only a burst may be faster."""
    log, ledger = make_log()
    async with log.on_message(Received()) as tail:
        tail.follow(at(Position(1, 0)).positions)
        await pass_time(1)
        ledger.commands.clear()
        for _ in range(1_000):
            ledger.ring()
            await pass_time(0.01)
    assert ledger.commands.total() <= 2 * (10 / 0.25 + BURST + 2)


@virtual_time
async def test_an_event_is_read_at_once_after_its_ring() -> None:
    """After the millisecond in which further appends do not ring, and a round trip of 20 ms."""
    moments = [100.0, 100.3, 100.6, 160.0]
    log, _ = make_log(moments=moments)
    seen: list[float] = []
    async with log.on_message(lambda _: seen.append(asyncio.get_running_loop().time())) as tail:
        tail.follow(at(Position(1, 0)).positions)
        await pass_time(200)
    delays = [arrived - moment for arrived, moment in zip(seen, moments, strict=True)]
    assert delays == pytest.approx([AFTER_RING + 0.02] * 4, abs=0.0005)


@virtual_time
@pytest.mark.parametrize("mute", [False, True], ids=["rung", "mute"])
async def test_an_own_event_does_not_wait_for_a_slow_poll(mute: bool) -> None:
    """A record that this process knows of is read soon, if its ring is lost."""
    log, ledger = make_log()
    received = Received()
    async with log.on_message(received) as tail:
        tail.follow(at(Position(1, 0)).positions)
        await pass_time(63)
        ledger.mute = mute
        for number in (1, 2):
            await publish(log, "new")
            await pass_time(1.1)
            assert len(received.items) == number
            await pass_time(60)
        assert tail.bell_heard is not mute


@virtual_time
async def test_a_head_after_the_tails_position_wakes_it() -> None:
    log, ledger = make_log(every=102.0)
    ledger.mute = True
    async with tailing(log, at(Position(1, 0))) as (received, _):
        await eventually(lambda: asyncio.get_running_loop().time() >= 102, 120)
        await log.head((ALL,))  # as a new subscriber does
        await pass_time(1.1)
        assert len(received.items) == 1


async def test_a_poll_is_one_command_for_all_partitions(upstash_store: UpstashStore, upstash: StandIn) -> None:
    upstash.stream_faults.append(NO_STREAM)
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
    upstash.stream_faults.append(NO_STREAM)
    log = upstash_store.open()
    async with tailing(log, await log.head((ALL,))) as (received, _):
        await eventually(lambda: upstash.commands["XREAD"] >= 20)
        await publish(log, "end")
        await received.has("end")
    assert upstash.connections <= 2 + 1, "and the refused subscription"


async def test_without_subscribers_nothing_polls(upstash_store: UpstashStore, upstash: StandIn) -> None:
    upstash.stream_faults.append(NO_STREAM)
    async with Hub(upstash_store.open()) as hub:
        async with subscribed(hub) as sink:
            await sink.ready()
            await eventually(lambda: upstash.commands["XREAD"] >= 3)
        with StandIn(upstash.redis_port) as another:
            another.stream_faults.append(NO_STREAM)
            witness = UpstashStore(upstash_store.url, another)
            async with Hub(witness.open()) as other, subscribed(other):
                await eventually(lambda: another.commands["XREAD"] >= 2)  # a running poll has ended by now
                asked = len(upstash.requests)
                await eventually(lambda: another.commands["XREAD"] >= 10)
                assert len(upstash.requests) == asked
            await witness.aclose()


async def test_subscribers_share_one_subscription(upstash_store: UpstashStore, upstash: StandIn) -> None:
    """It ends with the last of them."""
    async with Hub(upstash_store.open()) as hub:
        async with subscribed(hub) as one, subscribed(hub, "u1") as two:
            await one.ready()
            await two.ready()
            await eventually(lambda: upstash.streams == 1)
        await eventually(lambda: upstash.streams == 0)
        async with subscribed(hub) as third:
            await third.ready()
            await eventually(lambda: upstash.streams == 1)
    assert upstash.commands["SUBSCRIBE"] == 2
    await eventually(lambda: upstash.streams == 0)
