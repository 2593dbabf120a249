"""The random faults: those of tests/faults after which no event may be lost."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from chaos.world import World
from tests.support.processes import ServerProcess

FREEZE = 2.0  # seconds without a response: shorter than the time-outs
SLOW = 0.05  # seconds of delay in each direction
SHORT = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault; a `rare` one strikes once per four strikes of the others."""

    name: str
    strike: Callable[[World], Awaitable[None]]
    rare: bool = False


@dataclass(frozen=True, slots=True)
class Struck:
    """A past fault; times in seconds since the load began."""

    name: str
    began: float
    ended: float


async def redis_killed(world: World) -> None:
    await asyncio.to_thread(world.redis.kill)
    await asyncio.to_thread(world.redis.start)


async def redis_restarted(world: World) -> None:
    await asyncio.to_thread(world.redis.restart)


async def redis_frozen(world: World) -> None:
    await _frozen(world.redis)


async def redis_ends_connections(world: World) -> None:
    await asyncio.to_thread(world.redis.ask, "CLIENT KILL TYPE normal")


async def network_cut(world: World) -> None:
    world.proxy.cut()


async def network_away(world: World) -> None:
    await world.proxy.refuse()
    await asyncio.sleep(SHORT)
    await world.proxy.connect()


async def network_slow(world: World) -> None:
    world.proxy.delay = SLOW
    await asyncio.sleep(3 * SHORT)
    world.proxy.delay = 0.0


async def answers_cut(world: World) -> None:
    await _answers_cut(world, keep=7)


async def answers_lost(world: World) -> None:
    await _answers_cut(world, keep=0)


async def half_open(world: World) -> None:
    await world.proxy.freeze()


async def instance_killed(world: World) -> None:
    await asyncio.to_thread(world.other.kill)
    await asyncio.to_thread(world.other.start)


async def instance_drained(world: World) -> None:
    world.other.terminate()
    await asyncio.to_thread(world.other.wait)
    await asyncio.to_thread(world.other.start)


async def instance_frozen(world: World) -> None:
    await _frozen(world.steady)


FAULTS = [
    Fault("Redis killed (SIGKILL), started again", redis_killed),
    Fault("Redis restarted", redis_restarted),
    Fault("Redis frozen for 2 s (SIGSTOP)", redis_frozen),
    Fault("Redis ends all connections", redis_ends_connections),
    Fault("connections to Redis cut", network_cut),
    Fault("connections to Redis refused for 1 s", network_away),
    Fault("round trip to Redis 100 ms longer, for 3 s", network_slow),
    Fault("replies of Redis cut in the middle", answers_cut),
    Fault("acknowledged by Redis, but the reply lost", answers_lost),
    Fault("connections to Redis half open", half_open, rare=True),
    Fault("instance killed (SIGKILL), started again", instance_killed),
    Fault("instance drained (SIGTERM), started again", instance_drained),
    Fault("instance frozen for 2 s (SIGSTOP)", instance_frozen),
]
RARELY = 4


def shuffled(rng: random.Random, *, with_rare: bool) -> Iterator[Fault]:
    """Yield faults endlessly: every kind once in random order, then again."""
    turn = 0
    while True:
        kinds = [fault for fault in FAULTS if not fault.rare or (with_rare and turn % RARELY == 0)]
        yield from rng.sample(kinds, len(kinds))
        turn += 1


async def strike(world: World, fault: Fault, since: float) -> Struck:
    """Inject the fault, and return when it is over; times are relative to `since` on the monotonic clock."""
    began = time.monotonic()
    await fault.strike(world)
    return Struck(fault.name, began - since, time.monotonic() - since)


async def _frozen(server: ServerProcess) -> None:
    server.pause()
    try:
        await asyncio.sleep(FREEZE)
    finally:
        server.resume()


async def _answers_cut(world: World, keep: int) -> None:
    world.proxy.keep = keep
    wanted = world.proxy.cuts + 4
    deadline = time.monotonic() + 3 * SHORT
    while world.proxy.cuts < wanted and time.monotonic() < deadline:  # noqa: ASYNC110 — the proxy has no event to wait for
        await asyncio.sleep(0.005)
    world.proxy.keep = None
