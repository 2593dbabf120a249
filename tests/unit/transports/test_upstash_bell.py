"""The doorbell over REST in virtual time: when rings are relied on, what is noticed, and what polls take over."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Position
from tidewire.transports.base import Advising
from tidewire.transports.upstash import bell
from tidewire.transports.upstash.rest_log import UpstashRest
from tidewire.transports.upstash.tail import RestTail

from tests.contract.acts import Received, at, publish
from tests.support.clocks import pass_time, virtual_time
from tests.support.upstash_ledger import Ledger, make_log
from tests.support.waiting import eventually

START = at(Position(1, 0))


@asynccontextmanager
async def following(log: UpstashRest) -> AsyncIterator[tuple[Received, RestTail]]:
    """Open the tail; it follows one partition."""
    received = Received()
    async with log.on_message(received) as tail:
        tail.follow(START.positions)
        yield received, tail


async def heard(tail: RestTail, ledger: Ledger) -> None:
    """Wait until the tail relies on rings."""
    await eventually(lambda: tail.bell_heard, 60)
    assert tail.running
    assert tail.advice is None
    ledger.commands.clear()


@virtual_time
async def test_a_cut_stream_is_opened_again_and_nothing_is_lost() -> None:
    """The event came while no stream was open; it is read with the heads, once the subscription is confirmed."""
    log, ledger = make_log(moments=[200.005])
    async with following(log) as (received, tail):
        await heard(tail, ledger)
        await pass_time(200 - asyncio.get_running_loop().time())
        ledger.cut()
        await pass_time(0.4)
        assert len(received.items) == 1
        assert tail.bell_heard
        assert tail.advice is None


@virtual_time
async def test_polls_take_over_while_no_stream_can_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    log, ledger = make_log(every=20.0)
    async with following(log) as (received, tail):
        await heard(tail, ledger)
        monkeypatch.setattr(ledger, "open_error", TransportUnavailable("HTTP 503"))
        ledger.cut()
        before = len(received.items)
        await pass_time(200)
        assert len(received.items) >= before + 9
        assert not tail.bell_heard
        assert tail.running
        assert tail.advice is None, "it was cut by chance"
        monkeypatch.setattr(ledger, "open_error", None)
        await eventually(lambda: tail.bell_heard, bell.RECONNECT_MAX + 1)


@virtual_time
async def test_a_silent_stream_is_noticed_by_an_own_ring(caplog: pytest.LogCaptureFixture) -> None:
    log, ledger = make_log()
    async with following(log) as (_, tail):
        await heard(tail, ledger)
        ledger.silent = True
        await pass_time(60 + bell.SILENT)
        assert not tail.bell_heard
        assert "the event stream is silent" in caplog.text
        assert ledger.commands["SUBSCRIBE"] >= 1
        ledger.silent = False
        await eventually(lambda: tail.bell_heard, bell.TRY_AGAIN + 60)
        assert tail.advice is None


@virtual_time
async def test_a_silent_stream_delays_an_event_by_a_minute() -> None:
    """The heads are read then, whatever rings; from there on it polls."""
    log, ledger = make_log(moments=[100.0, 200.0])
    async with following(log) as (received, tail):
        await heard(tail, ledger)
        ledger.silent = True
        await pass_time(165 - asyncio.get_running_loop().time())
        assert len(received.items) == 1
        await pass_time(205 - asyncio.get_running_loop().time())
        assert len(received.items) == 2


@virtual_time
async def test_rings_of_others_prove_the_stream() -> None:
    """Of many readers, one rings; else each would wake all others every minute."""
    log, ledger = make_log()
    async with following(log) as (_, tail):
        await heard(tail, ledger)
        for _ in range(60):
            await pass_time(20)
            ledger.ring("=")
        assert ledger.own_rings == 1


@virtual_time
@pytest.mark.parametrize(
    ("attribute", "advice"),
    [
        ("refuses_streams", bell.NO_STREAM.format(404, "so events are polled for")),
        ("refuses_rings", bell.MAY_NOT_RING),
        ("silent", bell.NOT_RUNG),
    ],
)
async def test_what_only_a_deployment_can_change_is_advised_once(
    attribute: str, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The tail polls, and tries again every ten minutes."""
    caplog.set_level(logging.WARNING)
    log, ledger = make_log(every=60.0)
    setattr(ledger, attribute, True)
    async with following(log) as (received, tail):
        await pass_time(3_600)
        assert isinstance(tail, Advising)
        assert tail.advice is not None
        assert tail.advice.startswith(advice[:60])
        assert tail.running
        assert not tail.bell_heard
        assert len(received.items) >= 59
        assert caplog.messages.count(tail.advice) == 1
        assert ledger.commands["SUBSCRIBE"] <= 7
        setattr(ledger, attribute, False)
        await eventually(lambda: tail.bell_heard, bell.TRY_AGAIN + 60)
        assert tail.advice is None


@virtual_time
async def test_publishers_that_do_not_ring_make_it_poll() -> None:
    """They are older, or may not publish. Once they ring, it takes ten minutes until rings are relied on again."""
    log, ledger = make_log(every=15.0)
    delays: list[float] = []
    async with log.on_message(lambda _: delays.append(asyncio.get_running_loop().time() % 15.0)) as tail:
        tail.follow(START.positions)
        await heard(tail, ledger)
        ledger.mute = True
        await pass_time(120)
        assert not tail.bell_heard
        assert tail.advice == bell.SILENT_PUBLISHERS
        delays.clear()
        await pass_time(300)
        assert max(delays) < 5.1
        ledger.mute = False
        await pass_time(bell.TRUST - 30)
        assert not tail.bell_heard
        await eventually(lambda: tail.bell_heard, 120)
        assert tail.advice is None


@virtual_time
async def test_rings_that_are_late_are_relied_on() -> None:
    """Their records were read before, by chance."""
    log, ledger = make_log()
    async with following(log) as (received, tail):
        await heard(tail, ledger)
        ledger.mute = True
        await publish(log, 1)
        await pass_time(1.05)
        assert len(received.items) == 1
        await pass_time(bell.LATE - 0.5)
        ledger.ring()
        await pass_time(10)
        assert tail.bell_heard


@virtual_time
async def test_a_ring_for_another_partition_reads_nothing() -> None:
    log, ledger = make_log()
    async with following(log) as (_, tail):
        await heard(tail, ledger)
        for _ in range(100):
            ledger.ring("not followed")
            await pass_time(0.1)
        assert ledger.commands.total() == 0


@virtual_time
async def test_a_ring_at_the_end_does_not_keep_the_stream() -> None:
    """The last subscriber leaves in the moment in which a ring arrives."""
    log, ledger = make_log()
    async with following(log) as (_, tail):
        await heard(tail, ledger)
        ledger.ring()
        tail.unfollow(list(START.positions))
        await pass_time(1)
        assert ledger.streams == []


@virtual_time
async def test_rings_of_one_moment_are_one_read() -> None:
    log, ledger = make_log()
    async with following(log) as (_, tail):
        await heard(tail, ledger)
        ledger.append()
        for _ in range(50):
            ledger.ring()
        await pass_time(1)
        assert ledger.commands == {"XREAD": 1}


@virtual_time
async def test_a_ring_without_a_record_is_checked_at_the_primary() -> None:
    """A replica that lags answers with nothing; so it is read again until it has the record that the heads name."""
    log, ledger = make_log()
    async with following(log) as (received, tail):
        await heard(tail, ledger)
        ledger.lag = 1.0
        ledger.append()
        ledger.ring()
        await pass_time(0.5)
        assert ledger.commands["EVALSHA"] == 1
        await pass_time(1.0)
        assert len(received.items) == 1
        assert tail.bell_heard
        await pass_time(10)
        assert tail.bell_heard, "the record did ring"


@virtual_time
async def test_a_record_that_the_store_lost_is_not_polled_for() -> None:
    """The heads named it, and no read has ever returned it."""
    log, ledger = make_log()
    async with following(log) as (received, tail):
        await heard(tail, ledger)
        ledger.lag = 1_000.0
        ledger.append()
        ledger.ring()
        await pass_time(10)
        assert ledger.commands["XREAD"] >= 5
        ledger.lose()
        await pass_time(120)
        ledger.commands.clear()
        await pass_time(600)
        assert ledger.commands.total() <= 11
        assert received.items == []


@virtual_time
async def test_random_faults_of_rings_lose_nothing() -> None:
    """Rings are dropped, doubled, delayed and reordered, and streams cut; each record comes once, in order."""
    for seed in range(40):
        rng = random.Random(seed)
        log, ledger = make_log()
        ledger.mute = True
        received = Received()
        async with log.on_message(received) as tail:
            tail.follow(START.positions)
            loop = asyncio.get_running_loop()
            for _ in range(60):
                await pass_time(rng.choice((0.0, 0.001, 0.05, 1.0, 20.0)))
                ledger.append()
                for _ in range(rng.choice((0, 1, 1, 1, 2))):
                    loop.call_later(rng.choice((0.0, 0.02, 0.5, 5.0)), ledger.ring)
                if rng.random() < 0.1:
                    ledger.cut()
                ledger.silent = rng.random() < 0.1
                ledger.lag = rng.choice((0.0, 0.0, 0.3))
            ledger.silent, ledger.lag = False, 0.0
            await pass_time(70)
            offsets = [item.position.offset for item in received.items if item.position is not None]
            assert offsets == list(range(1, 61)), f"seed {seed}"
