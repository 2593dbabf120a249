"""A phase: publish at a rate, subscribe with many connections, inject faults, and count the deliveries."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidewire.model.cursor import Cursor

from bench.client import Load, Mark
from bench.process import pss
from chaos.faults import FAULTS, Struck, shuffled, strike
from chaos.world import World, made_world

EVERYONE = '{"type":"bench","id":"e{n}","data":{d}}'
ONE_USER = '{"type":"bench","id":"e{n}","data":{d},"userIds":["u{u}"]}'
SAMPLE = 2.0  # seconds between two samples of the memory
DRAIN = 120.0  # seconds after the last event to wait for missing deliveries
WRONG = (
    "timed_out",
    "lost",
    "duplicated",
    "reordered",
    "disagreed",
    "misdelivered",
    "foreign",
    "gaps",
    "publish_errors",
)


@dataclass(frozen=True, slots=True)
class Phase:
    """The parameters of a phase. `spread`: each event is for one user, in turn; otherwise for everyone."""

    name: str
    title: str
    a_minute: int
    connections: int
    seconds: int
    batch: int = 1
    spread: bool = False
    between: float = 6.0  # seconds from the end of a fault to the next one
    cut: int = 2  # connections per second that the client drops
    rare: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def events(self) -> int:
        """The number of events published."""
        return self.a_minute * self.seconds // 60

    @property
    def reaches(self) -> str:
        """The audience of an event, in words."""
        return "one connection" if self.spread else "all connections"


FULL = [
    Phase("seed", "1,000 events a minute", 1_000, 200, 90, cut=2),
    Phase("rate", "300,000 events a minute", 300_000, 100, 120, batch=100, spread=True, cut=1, between=6.0),
    Phase(
        "crowd",
        "5,000 connections",
        30_000,
        5_000,
        600,
        batch=20,
        spread=True,
        cut=10,
        between=12.0,
        rare=True,
        settings={"REALTIME_USER_SHARDS": "64"},
    ),
]
SHORT = [
    Phase("seed", "1,000 events a minute", 1_000, 50, 9, cut=1, between=1.0),
    Phase("rate", "30,000 events a minute", 30_000, 100, 9, batch=20, spread=True, between=1.0),
]


@dataclass(slots=True)
class Outcome:
    """The result of a phase; `seconds` has an entry per second."""

    phase: Phase
    done: Mark
    struck: list[Struck]
    seconds: list[dict[str, Any]]
    memory: list[dict[str, float]]
    seed: int

    @property
    def wrong(self) -> dict[str, int]:
        """The counts that must be zero and are not."""
        return {name: self.done[name] for name in WRONG if self.done[name]}

    @property
    def faults(self) -> dict[str, int]:
        """The number of strikes per kind, in the order of the table."""
        counted = Counter(struck.name for struck in self.struck)
        return {fault.name: counted[fault.name] for fault in FAULTS if counted[fault.name]}


async def run(phase: Phase, folder: Path, seed: int, say: Callable[[str], None]) -> Outcome:
    """Run one phase. Raises BenchError if the load client fails."""
    rng = random.Random(seed)
    struck: list[Struck] = []
    memory: list[dict[str, float]] = []
    ticks, arrivals = folder / f"{phase.name}.ticks", folder / f"{phase.name}.arrivals"
    async with made_world(folder, phase.settings) as world:
        with await asyncio.to_thread(_load, phase, world, folder, ticks, arrivals) as load:
            await asyncio.to_thread(load.step, "connected")
            since = time.monotonic()
            going = asyncio.create_task(asyncio.to_thread(load.step, "done", may_lose=True))
            breaking = asyncio.create_task(_break(phase, world, rng, since, struck, say))
            while not going.done():
                memory.append({"s": time.monotonic() - since, **_memory(world)})
                if breaking.done():
                    breaking.result()  # raises its exception now
                await asyncio.wait({going}, timeout=SAMPLE)
            await breaking
            done = going.result()
    with arrivals.open() as lines:
        done["reordered"] = count_reordered(lines)
    seconds = [json.loads(line) for line in ticks.read_text().splitlines()]
    return Outcome(phase, done, struck, seconds, memory, seed)


def _load(phase: Phase, world: World, folder: Path, ticks: Path, arrivals: Path) -> Load:
    return Load(
        Target(
            port=world.steady.port,
            publish_port=world.steady.port,
            events="/api/events?userId=u{i}" if phase.spread else "/api/events",
            body=ONE_USER if phase.spread else EVERYONE,
        ),
        log=folder / "load.log",
        timeout=DRAIN + 60,
        conns=phase.connections,
        sources=4,
        mode="rate",
        rate=phase.a_minute / 60,
        batch=phase.batch,
        events=phase.events,
        spread=phase.spread,
        other_port=world.other.port,
        insist=True,
        cut=phase.cut,
        drain=DRAIN,
        ticks=ticks,
        arrivals=arrivals,
    )


@dataclass(frozen=True, slots=True)
class Target:
    """The first of the two instances, in the form that the load client expects."""

    port: int
    publish_port: int
    events: str
    body: str
    publish: str = "/api/publish"
    ready: bool = True


def count_reordered(arrivals: Iterable[str]) -> int:
    """Return the number of events that reached a connection after an event with a later position, by their cursors.

    A line is `connection number cursor`, in the order of arrival. The publisher's numbers prove no order: a refused
    POST is retried, and its events are appended after later ones (`overtaken`).
    """
    places: dict[str, dict[str, tuple[int, int]]] = {}
    reordered = 0
    for line in arrivals:
        connection, _, text = line.split()
        cursor = Cursor.parse(text)
        now = {name: at[:2] for name, at in cursor.positions.items()} if cursor is not None else {}
        before = places.setdefault(connection, {})
        forward = any(at > before.get(name, (0, 0)) for name, at in now.items())
        reordered += not forward or any(at < before.get(name, at) for name, at in now.items())
        before |= now
    return reordered


async def _break(
    phase: Phase, world: World, rng: random.Random, since: float, struck: list[Struck], say: Callable[[str], None]
) -> None:
    """Inject one fault after the other while events are published."""
    for fault in shuffled(rng, with_rare=phase.rare):
        await asyncio.sleep(phase.between)
        if time.monotonic() - since > phase.seconds - phase.between:
            return
        struck.append(await strike(world, fault, since))
        say(f"  {struck[-1].began:6.1f} s  {fault.name}")


def _memory(world: World) -> dict[str, float]:
    return {name: pss(pid) / 2**20 for name, pid in world.processes.items()}
