"""The store's clock jumps: the effect of one jump is bounded, and no event is out of order."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

import pytest
from tidewire.transports.appending import Part, Placed
from tidewire.transports.base import Log, Receipt, Retention
from tidewire.transports.redis.layout import APPEND, Layout

from tests.contract.acts import at, contents, event, head, place, publish, read, seek, start_of
from tests.contract.stores import ALL, MemoryStore, PostgresStore, RedisStore

HOUR = 3_600.0


class Clocked(ABC):
    """A log whose store can have a wrong time for one append."""

    def __init__(self, retention: Retention) -> None:
        self.retention = retention

    log: Log

    @abstractmethod
    async def publish_off(self, data: object, seconds: float) -> Receipt:
        """Append while the store's clock is so many seconds ahead."""

    @abstractmethod
    async def pass_time(self, seconds: float) -> None:
        """Let this much time pass for the store."""

    @abstractmethod
    def now(self) -> int:
        """The true time in ms."""


class InMemory(Clocked):
    """The memory log, with a clock that the test moves."""

    def __init__(self, retention: Retention) -> None:
        super().__init__(retention)
        self._store = MemoryStore()
        self.log = self._store.open(retention=retention)

    async def publish_off(self, data: object, seconds: float) -> Receipt:
        self._store.clock.advance(seconds)
        (receipt,) = await publish(self.log, data)
        self._store.clock.advance(-seconds)
        return receipt

    async def pass_time(self, seconds: float) -> None:
        await self._store.pass_time(seconds)

    def now(self) -> int:
        return int(self._store.clock() * 1000)


class InRedis(Clocked):
    """A real Redis; one append runs a script with another result of TIME."""

    def __init__(self, retention: Retention, store: RedisStore) -> None:
        super().__init__(retention)
        self._store = store
        self._layout = Layout("rt", retention)
        self.log = store.open(retention=retention)

    async def publish_off(self, data: object, seconds: float) -> Receipt:
        one = event(data)
        appending = self._layout.append("", [Part(0, ALL, one, one.key)])
        ((keys, arguments),) = appending.calls
        text = APPEND.text.replace("redis.call('TIME')", f"{{{int(time.time() + seconds)}, 0}}")
        assert text != APPEND.text
        (answer,), _ = appending.answers([await self._store.client.eval(text, len(keys), *keys, *arguments)])
        assert isinstance(answer, Placed)
        return Receipt(one.id, {ALL: answer.position}, answer.duplicate)

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def now(self) -> int:
        return int(time.time() * 1000)


class InPostgres(Clocked):
    """A real Postgres; `now_ms` is another function for one append."""

    def __init__(self, retention: Retention, store: PostgresStore) -> None:
        super().__init__(retention)
        self._store = store
        self.log = store.open(retention=retention)

    async def publish_off(self, data: object, seconds: float) -> Receipt:
        clock = (
            "create or replace function rt.now_ms() returns bigint language sql volatile as"
            " $$select floor(extract(epoch from clock_timestamp()) * 1000)::bigint + {}$$"
        )
        await self._store.execute(clock.format(int(seconds * 1000)))
        try:
            (receipt,) = await publish(self.log, data)
        finally:
            await self._store.execute(clock.format(0))
        return receipt

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def now(self) -> int:
        return int(time.time() * 1000)


RETENTION = Retention(age=1.0, idempotency_window=1.0)


@pytest.fixture(params=["memory", "redis", "postgres"])
async def clocked(request: pytest.FixtureRequest) -> AsyncIterator[Clocked]:
    """A log with a retention of one second."""
    if request.param == "memory":
        yield InMemory(RETENTION)
        return
    if request.param == "redis":
        store = RedisStore(request.getfixturevalue("redis_url"))
        yield InRedis(RETENTION, store)
        await store.aclose()
        return
    in_postgres = PostgresStore(request.getfixturevalue("postgres_url"))
    yield InPostgres(RETENTION, in_postgres)
    await in_postgres.aclose()


async def settle(clocked: Clocked) -> None:
    """Publish until the log has detected that its clock stays behind its last time."""
    await publish(clocked.log, "sees it")
    await clocked.pass_time(RETENTION.age + 0.1)
    await publish(clocked.log, "believes it")


async def test_an_hour_ahead_once_does_not_stop_trimming(clocked: Clocked) -> None:
    """For an hour nothing was trimmed: each record had the time of the jump."""
    await publish(clocked.log, "before")
    await clocked.publish_off("jumped", HOUR)
    await settle(clocked)
    await clocked.pass_time(RETENTION.age + 0.2)
    await publish(clocked.log, "after")
    assert contents(await read(clocked.log, at(await seek(clocked.log, None)))) == ["after"]


async def test_a_search_by_time_works_after_a_jump(clocked: Clocked) -> None:
    """For an hour, `from=<2 s ago>` returned all records since the jump."""
    await clocked.publish_off("jumped", HOUR)
    await settle(clocked)
    await clocked.pass_time(0.1)
    now = clocked.now()
    await clocked.pass_time(0.01)
    await publish(clocked.log, "new")
    assert contents(await read(clocked.log, at(await seek(clocked.log, now)))) == ["new"]
    assert (await seek(clocked.log, clocked.now() + 1_000))[:2] == (await head(clocked.log))[:2]


async def test_an_hour_behind_once_costs_nothing(clocked: Clocked) -> None:
    """One append with a slow clock must not make earlier records look old."""
    (first,) = await publish(clocked.log, "before")
    behind = await clocked.publish_off("behind", -HOUR)
    (after,) = await publish(clocked.log, "after")
    assert place(behind).time >= place(first).time
    assert place(after).time - place(first).time < 1_000
    assert contents(await read(clocked.log, at(start_of(place(first))))) == ["before", "behind", "after"]


async def test_several_jumps_leave_every_record_in_order(clocked: Clocked) -> None:
    """Each jump is stored as long as the log has a record from before it."""
    for number in range(3):
        await clocked.publish_off(f"jump {number}", HOUR * (3 - number))
        await publish(clocked.log, f"sees {number}")
        await clocked.pass_time(0.4)
        await publish(clocked.log, f"waits {number}")
    await clocked.pass_time(RETENTION.age + 0.2)
    await publish(clocked.log, "believes")
    await clocked.pass_time(RETENTION.age + 0.2)
    last = (await publish(clocked.log, "last"))[0]
    assert contents(await read(clocked.log, at(await seek(clocked.log, None)))) == ["last"]
    assert abs(place(last).time - clocked.now()) < 1_000


async def test_ids_are_forgotten_after_a_jump_too() -> None:
    """Ids in memory had the time of the jump, and were kept until the clock reached it."""
    clocked = InMemory(RETENTION)
    await clocked.publish_off("jumped", HOUR)
    once = event("once", id="once")
    await clocked.log.publish([once])
    await clocked.pass_time(RETENTION.age + 0.1)
    await publish(clocked.log, "believes it")
    await clocked.pass_time(RETENTION.age + 0.1)
    (receipt,) = await clocked.log.publish([once])
    assert not receipt.duplicate
