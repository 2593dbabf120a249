"""The faults of a log and of the network in front of it, in one table, and the traffic that they meet."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tidewire.delivery.hub import Hub
from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Cursor
from tidewire.transports.base import Log

from tests.contract.acts import event, place
from tests.faults.rigs import PostgresRig, RedisRig, Rig
from tests.support.sinks import RecordingSink, subscribed
from tests.support.waiting import Growing

AGAIN = 0.02  # seconds before a refused publisher retries
PACE = 0.002  # seconds between two events
BEFORE = 15  # events delivered before the fault, and again after it
SLOW = 0.1  # seconds of delay in each direction
PATIENCE = 60.0  # seconds of a recovery; a half-open connection takes half of it


class Traffic(Growing):
    """A publisher that retries for ever, and one subscriber, each a process of its own behind the proxy."""

    def __init__(self, rig: Rig, sink: RecordingSink) -> None:
        super().__init__()
        self.rig = rig
        self.sink = sink
        self.acknowledged: dict[int, int] = {}  # event → the offset in its receipt
        self.refused = 0
        self._began: dict[int, float] = {}
        self._answered: dict[int, float] = {}

    async def publish(self, log: Log) -> None:
        """Publish 0, 1, 2 …, each with one id until it is acknowledged."""
        number = 0
        while True:
            await self.publish_one(log, number)
            number += 1
            await asyncio.sleep(PACE)

    async def publish_one(self, log: Log, number: int) -> None:
        one = event(number, id=f"event-{number}")  # a retry has the same id
        self._began[number] = time.monotonic()
        while number not in self.acknowledged:
            try:
                (receipt,) = await log.publish([one])
            except TransportUnavailable:
                self.refused += 1
                await asyncio.sleep(AGAIN)
                continue
            self.acknowledged[number] = place(receipt).offset
        self._answered[number] = time.monotonic()
        self.grow()

    async def more(self, count: int = BEFORE) -> None:
        """Return once `count` more events were acknowledged and delivered."""
        last = len(self.acknowledged) + count
        await self.until(lambda: len(self.acknowledged) > last, PATIENCE)
        await self.sink.has(last, PATIENCE)

    async def recovery(self, over: float) -> tuple[float, float]:
        """Return the seconds from `over` until a later event was acknowledged, and until it was delivered."""
        await self.until(lambda: any(self._began[n] >= over for n in self._answered), PATIENCE)
        first = min(n for n in self._answered if self._began[n] >= over)
        # Or a later one: offsets that a restored store uses again at once are part of the gap.
        await self.sink.until(lambda: bool(self.sink.data) and self.sink.data[-1] >= first, PATIENCE)
        return self._answered[first] - over, time.monotonic() - over

    def __str__(self) -> str:
        return f"{len(self.acknowledged)} acknowledged, {self.refused} refused, delivered: {len(self.sink.data)}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result. Times are seconds after the end of the fault, or after its begin if it has no end."""

    published_after: float
    delivered_after: float
    refused: int
    gaps: tuple[str, ...]


Strike = Callable[[Rig, Traffic], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault. If it `loses`, the store loses acknowledged records, and each reader must get a gap."""

    name: str
    strike: Strike
    loses: bool = False
    rigs: tuple[type[Rig], ...] = (RedisRig, PostgresRig)  # and their subclasses


async def slow_network(rig: Rig, traffic: Traffic) -> None:
    rig.proxy.delay = SLOW
    await traffic.more(5)
    rig.proxy.delay = 0.0


async def cut_connections(rig: Rig, traffic: Traffic) -> None:
    for _ in range(3):
        rig.proxy.cut()
        await traffic.more(3)


def cut_answers(keep: int) -> Strike:
    """Cut the next responses after `keep` bytes; with 0 bytes an acknowledgement is lost."""

    async def strike(rig: Rig, traffic: Traffic) -> None:
        rig.proxy.keep = keep
        wanted = rig.proxy.cuts + 4
        async with asyncio.timeout(PATIENCE):
            while rig.proxy.cuts < wanted:  # noqa: ASYNC110 — the proxy sets no event
                await asyncio.sleep(0.005)
        rig.proxy.keep = None

    return strike


async def half_open_connections(rig: Rig, traffic: Traffic) -> None:
    await rig.proxy.freeze()


async def every_request_twice(rig: Rig, traffic: Traffic) -> None:
    rig.proxy.twice = True
    rig.proxy.cut()
    await traffic.more(30)
    rig.proxy.twice = False
    rig.proxy.cut()


async def refused_for_a_while(rig: Rig, traffic: Traffic) -> None:
    await rig.proxy.refuse()
    await asyncio.sleep(0.5)  # the length of the outage
    await rig.proxy.connect()


async def kill(rig: Rig, traffic: Traffic) -> None:
    await asyncio.to_thread(rig.server.kill)
    await asyncio.to_thread(rig.server.start)


async def pause(rig: Rig, traffic: Traffic) -> None:
    rig.server.pause()
    await asyncio.sleep(rig.silence)
    rig.server.resume()


async def restart(rig: Rig, traffic: Traffic) -> None:
    await asyncio.to_thread(rig.server.restart)


async def end_sessions(rig: Rig, traffic: Traffic) -> None:
    for _ in range(3):
        await rig.end_sessions()
        await traffic.more(3)


async def wipe(rig: Rig, traffic: Traffic) -> None:
    await rig.wipe()


async def fail_over_with_everything(rig: Rig, traffic: Traffic) -> None:
    await rig.fail_over(None)


async def fail_over_after_missed_writes(rig: Rig, traffic: Traffic) -> None:
    await rig.fail_over(traffic.more)


SCENARIOS = [
    Scenario("slow network", slow_network),
    Scenario("connections cut", cut_connections),
    Scenario("replies cut in the middle", cut_answers(7)),
    Scenario("acknowledged, but the reply lost", cut_answers(0)),
    Scenario("connections half open", half_open_connections),
    Scenario("every request delivered twice", every_request_twice),
    Scenario("connections refused for 0.5 s", refused_for_a_while),
    Scenario("store killed (SIGKILL) and started", kill),
    Scenario("store frozen (SIGSTOP)", pause),
    Scenario("store restarted", restart),
    Scenario("all sessions ended by the store", end_sessions),
    Scenario("failover to a replica that has everything", fail_over_with_everything, rigs=(RedisRig,)),
    Scenario("failover to a replica that missed writes", fail_over_after_missed_writes, loses=True),
    Scenario("store wiped (FLUSHALL, truncate)", wipe, loses=True),
]


async def play(scenario: Scenario, rig: Rig) -> Outcome:
    """Play the fault during traffic, and check that nothing is lost, repeated or reordered without a gap."""
    async with _traffic(rig) as traffic:
        await traffic.more()
        cursor, seen = traffic.sink.cursor, len(traffic.sink.data)
        refused = traffic.refused
        began = time.monotonic()
        await scenario.strike(rig, traffic)
        over = began if scenario.strike is half_open_connections else time.monotonic()
        published_after, delivered_after = await traffic.recovery(over)
        await traffic.more()
    await _check(scenario, rig, traffic, cursor, seen)
    return Outcome(published_after, delivered_after, traffic.refused - refused, tuple(traffic.sink.gaps))


@asynccontextmanager
async def _traffic(rig: Rig) -> AsyncIterator[Traffic]:
    """Publish and follow until the context ends; then each published event has arrived."""
    log = rig.open()
    async with Hub(rig.open()) as hub, subscribed(hub) as sink:
        traffic = Traffic(rig, sink)
        await sink.ready()
        publishing = asyncio.create_task(traffic.publish(log))
        try:
            yield traffic
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
        last = len(traffic.acknowledged)  # the interrupted publish: the same event, which may not be stored yet
        await traffic.publish_one(log, last)
        await sink.has(last, PATIENCE)


async def _check(scenario: Scenario, rig: Rig, traffic: Traffic, cursor: str, seen: int) -> None:
    """Compare the events published, stored, delivered live, and replayed to a resumed client."""
    stored, delivered, count = await rig.stored(), traffic.sink.data, len(traffic.acknowledged)
    late = await _resume(rig, cursor)
    if not scenario.loses:
        assert stored == list(range(count)), "lost, repeated or reordered in the log"
        assert [traffic.acknowledged[n] for n in range(count)] == list(range(1, count + 1)), "a receipt does not fit"
        assert (delivered, traffic.sink.gaps) == (stored, [])
        assert (late.data, late.gaps) == (stored[seen:], [])
        return
    assert traffic.sink.gaps == ["epoch"]
    at = traffic.sink.order.index("realtime.gap") - 1  # after `ready`
    assert delivered[:at] == list(range(at)), "lost or repeated before the gap"
    assert delivered[at:] == stored[len(stored) - len(delivered[at:]) :], "lost or repeated after the gap"
    assert len(set(stored)) == len(stored)
    if late.gaps:
        assert (late.order[0], late.gaps, late.data) == ("realtime.gap", ["epoch"], stored)
    else:  # the store still has this position
        assert late.data == stored[seen:]


async def _resume(rig: Rig, cursor: str) -> RecordingSink:
    """Return what a new process replays to a client whose cursor is from before the fault."""
    parsed = Cursor.parse(cursor)
    assert parsed is not None
    async with Hub(rig.open(direct=True)) as hub, subscribed(hub, cursor=cursor) as sink:
        await sink.ready()
        return sink
