"""Upstash over REST: latency and commands of a reader that hears the doorbell, and of one that must poll.

Between both and a real Redis is the tests' stand-in for Upstash's REST API, in this process, with a fixed round trip:
what exceeds the round trips is ours and the stand-in's.
"""

import asyncio
import random
import time

from tidewire.model.event import Event, new_id
from tidewire.model.partitions import ALL
from tidewire.model.record import Gap, Record
from tidewire.transports.upstash.rest_log import UpstashRest

from bench.process import BenchError
from bench.servers import redis
from bench.session import Session
from bench.views import View
from tests.support.upstash_stand_in import Fault, StandIn

TITLE = "Upstash over REST"
VIEWS = [
    View("commands_hour", "commands per idle hour", digits=0, plot=True),
    View("acknowledged_p50_ms", "ms from the receipt to the reader's handler, p50", digits=0, plot=True),
    View("acknowledged_max_ms", "the same, maximum", digits=0),
    View("published_p50_ms", "ms from before the publish to the reader's handler, p50", digits=0),
    View("commands_event", "the reader's commands per event", digits=1),
]

ROUND_TRIP = 0.02  # seconds: a function and its database in one region
SETTLED = 15.0  # seconds: a poll is at its longest interval after 12
REFUSED = Fault(404)


def measure(session: Session) -> None:
    """Events so far apart that each comes alone, at times that no poll knows; then the reader is idle."""
    events, gap, idle = session.pick(20, 4), session.pick(4.0, 1.0), session.pick(120.0, 60.0)
    case = f"round trip {ROUND_TRIP * 1000:g} ms"
    for run, who in session.rounds(["doorbell", "polls"]):
        with session.attempt(case, who, run) as stack:
            store = stack.enter_context(redis(session.tmp))
            upstash = stack.enter_context(StandIn(store.port))
            upstash.latency = ROUND_TRIP
            if who == "polls":
                upstash.stream_faults.extend([REFUSED] * 100)
            session.add(case, who, run, **asyncio.run(_measure(upstash, events, gap, idle, hears=who == "doorbell")))


async def _measure(upstash: StandIn, events: int, gap: float, idle: float, *, hears: bool) -> dict[str, float]:
    reader, publisher = (UpstashRest(upstash.url, upstash.token) for _ in range(2))
    arrived: dict[str, float] = {}
    arrival = asyncio.Event()

    def handler(item: Record | Gap) -> None:
        assert isinstance(item, Record), item
        arrived[item.event.id] = time.perf_counter()
        arrival.set()

    published, acknowledged = [], []
    async with reader.on_message(handler) as tail:
        tail.follow((await reader.head((ALL,))).positions)
        await publisher.publish([Event(new_id(), "bench", b"1")])  # loads the script
        await asyncio.sleep(SETTLED)
        if tail.bell_heard is not hears:
            raise BenchError("the doorbell is not heard" if hears else "the doorbell is heard")
        upstash.requests.clear()
        for _ in range(events):
            await asyncio.sleep(gap * random.uniform(0.5, 1.5))
            event = Event(new_id(), "bench", b"1")
            before = time.perf_counter()
            arrival.clear()
            await publisher.publish([event])
            after = time.perf_counter()
            async with asyncio.timeout(30):
                await arrival.wait()
            published.append(arrived[event.id] - before)
            acknowledged.append(arrived[event.id] - after)
        per_event = (upstash.commands.total() - events) / events
        await asyncio.sleep(SETTLED)
        upstash.requests.clear()
        await asyncio.sleep(idle)
        per_hour = upstash.commands.total() * 3600 / idle
    await reader.aclose()
    await publisher.aclose()
    return {
        "commands_hour": per_hour,
        "commands_event": per_event,
        "published_p50_ms": sorted(published)[events // 2] * 1000,
        "acknowledged_p50_ms": sorted(acknowledged)[events // 2] * 1000,
        "acknowledged_max_ms": max(acknowledged) * 1000,
    }
