"""The live read of Postgres: NOTIFY rings, and what is delivered is read from the table, after our own place."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple, Protocol

from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Cursor, Position
from tidewire.model.record import Record
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.counters import RECONNECTS
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports.log_follower import BROKE, Following, control_first
from tidewire.transports.postgres import connection
from tidewire.transports.postgres.connection import Fetch, Row, Server, listen

log = logging.getLogger(__name__)

CHECK = 10.0
"""Seconds between two looks at the heads, whatever is heard: a connection may be dead without a word."""

SWEEPS = 3  # looks between two sweeps of what is too old

POLL_FAST, POLL_SLOW = 0.2, 2.0
"""Seconds between two looks at the heads while no connection listens: after a record, and after a while without."""

OVERDUE = 1.0  # seconds after which a doorbell has not rung for a record that the pool knows of

HEAR_AGAIN = 30.0  # seconds until a connection on which no doorbell was heard is tried again

UNHEARD = (
    "a NOTIFY of this process does not reach its own LISTEN: a pooler in front of the database gives each transaction"
    f" another session. Events are polled for, up to {POLL_SLOW:g} s late: let DATABASE_URL name the direct host"
)


class News(NamedTuple):
    """What one read found in a partition; `last` is the last row's epoch and offset, readable or not."""

    partition: str
    records: list[Record]
    last: tuple[int, int]
    more: bool


class Source(Protocol):
    """What the tail asks of its log."""

    async def fetch(self, sql: str, *arguments: object) -> list[Row]:
        """Run a statement on a connection that does not listen."""

    def condemn(self) -> None:
        """Use no idle connection again."""

    async def notify(self, payload: str) -> None:
        """Ring the doorbell, on a connection that does not listen."""

    async def places(self, fetch: Fetch, partitions: Sequence[str]) -> Cursor:
        """Return the heads."""

    async def news(self, fetch: Fetch, seen: Cursor) -> list[News]:
        """Return what lies after these places, at most a page a partition."""

    async def sweep(self, fetch: Fetch) -> None:
        """Drop what is too old from partitions that nobody publishes to."""


class _UnheardError(Exception):
    """The connection answers, and no doorbell is heard on it."""


class PostgresTail:
    """Reads all followed partitions in one statement whenever a doorbell rings for one of them."""

    def __init__(self, source: Source, server: Server, channel: str, following: Following, check: float) -> None:
        self._source = source
        self._server = server
        self._channel = channel
        self._following = following
        self._check = check
        self._due: set[str] = set()  # partitions that hold more than we have heard, as far as we know
        self._bell = asyncio.Event()
        self._turn = asyncio.Lock()  # a poll may be under way when the listening connection is back
        self._away = asyncio.Event()
        self._away.set()
        self._answered = False  # the last read, on whichever connection
        self._doubted = False  # the connection that listens is not to be waited for
        self._alive_at = 0.0  # on the loop's clock: when that connection brought something the last time
        self._expected: dict[str, Position] = {}  # heads that the pool has seen, further on than we are
        self._overdue: asyncio.TimerHandle | None = None
        self._own = f"heard {secrets.token_hex(8)}"  # what we send to ourselves
        self._heard = asyncio.Event()
        self.advice: str | None = None
        self.failure: str | None = None
        self._warnings = ThrottledLog(log)

    @property
    def running(self) -> bool:
        """Whether a read was answered, and the next one comes when there are new records, be it by polling."""
        return self._answered

    def follow(self, positions: Mapping[str, Position | None]) -> Awaitable[None] | None:
        """Read these partitions too, and at once what they hold after these places; see `Tail.follow`."""
        read = self._following.follow(positions)
        if read is not None:
            self._ring(*positions)
        return read

    def unfollow(self, partitions: Sequence[str]) -> None:
        """Stop reading these partitions."""
        self._following.unfollow(partitions)

    def expect(self, heads: Mapping[str, Position]) -> None:
        """Look for records up to these heads soon, should no doorbell ring for them."""
        at = self._following.at
        ahead = {name: head for name, head in heads.items() if name in at and head[:2] > at[name][:2]}
        self._expected.update(ahead)
        if ahead and self._overdue is None:
            self._overdue = asyncio.get_running_loop().call_later(OVERDUE, self._look_for_expected)

    async def verify(self) -> None:
        """Read heads by new connections, and compare; see `Verifying`."""
        self._source.condemn()
        await self._look(self._source.fetch)
        self._doubted = not self._away.is_set()  # it may lead to a server that is not the primary any more
        self._ring(*self._following.at)

    def request_refresh(self) -> None:
        """Open the listening connection anew unless it has just answered: another one has gone silent."""
        silence = asyncio.get_running_loop().time() - self._alive_at
        if silence >= connection.TIMEOUT and not self._away.is_set():
            self._doubted = True
            self._ring()

    async def run(self) -> None:
        """Read until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen())
                tasks.create_task(self._poll())
        finally:
            if self._overdue is not None:
                self._overdue.cancel()

    async def _listen(self) -> None:
        """Listen whenever something is followed; a failure of any kind is logged and followed by another try."""
        backoff = Backoff()
        while True:
            await self._following.wanted()
            pause = None
            try:
                async with listen(self._server, self._channel, self._on_doorbell, self._on_lost) as fetch:
                    await self._begin(fetch)
                    backoff.reset()
                    await self._serve(fetch)
                continue
            except _UnheardError:
                pause = HEAR_AGAIN  # meanwhile it is polled
                if self.advice is None:
                    self.advice = UNHEARD
                    log.warning(UNHEARD)
            except TransportUnavailable as error:
                self._fail(error.detail)
                self._warnings.warn(f"tail lost, reconnecting: {error.detail}")
            except Exception:  # noqa: BLE001 - `exception` logs it
                self._fail(BROKE)
                self._warnings.exception("tail failed, reconnecting")
            finally:
                self._away.set()
            RECONNECTS.add()
            await asyncio.sleep(backoff.next() if pause is None else pause)

    async def _begin(self, fetch: Fetch) -> None:
        """Read what was appended before we listened, which rang for nobody, and ring for ourselves."""
        self._doubted = False
        await self._look(fetch)
        self._ring(*self._following.at)
        await self._read(fetch)
        self._heard.clear()
        try:
            await self._source.notify(self._own)
        except TransportUnavailable:
            pass  # the pool's address is out of reach, and ours is not
        else:
            try:
                async with asyncio.timeout(connection.TIMEOUT):
                    await self._heard.wait()
            except TimeoutError:
                await self._look(fetch)  # or else it has gone silent
                raise _UnheardError from None
            if self._doubted:
                raise TransportUnavailable("the connection that listens was ended")
            self.advice = None
        self._away.clear()

    async def _serve(self, fetch: Fetch) -> None:
        """Read when it rings, and look now and then; return where nobody follows anything any more.

        A database that sleeps when it is not used should be left alone then.
        """
        loop = asyncio.get_running_loop()
        next_look = loop.time() + self._check
        looks = 0
        while True:
            self._bell.clear()
            if self._doubted:
                raise TransportUnavailable("the connection that listens was ended, or is as old as one that failed")
            await self._read(fetch)
            try:
                async with asyncio.timeout_at(next_look):
                    await self._bell.wait()
            except TimeoutError:
                if not self._following.at:
                    return
                await self._look(fetch)
                if looks % SWEEPS == 0:
                    await self._source.sweep(fetch)
                looks += 1
                next_look = loop.time() + self._check

    async def _poll(self) -> None:
        """Look at the heads now and then while no connection listens: the pool may reach what the tail cannot."""
        pause = POLL_FAST
        while True:
            await self._away.wait()
            await self._following.wanted()
            await asyncio.sleep(pause)
            if not self._away.is_set():
                pause = POLL_FAST
                continue
            before = dict(self._following.at)
            try:
                await self._look(self._source.fetch)
                await self._read(self._source.fetch)
                self._answered = True
            except TransportUnavailable as error:
                self._fail(error.detail)  # `_listen` logs why
            except Exception:  # noqa: BLE001 - `exception` logs it
                self._fail(BROKE)
                self._warnings.exception("a poll failed")
            pause = POLL_FAST if self._following.at != before else min(pause * 2, POLL_SLOW)

    def _fail(self, why: str) -> None:
        self._answered = False
        self.failure = why

    async def _look(self, fetch: Fetch) -> None:
        """Compare our places with the heads: the log may be another one now, or hold what did not ring for us."""
        async with self._turn:
            if await self._following.verify(lambda names: self._source.places(fetch, names)):
                self._ring(*self._following.at)
            self._alive_at = asyncio.get_running_loop().time()

    async def _read(self, fetch: Fetch) -> None:
        """Deliver what is due, page by page."""
        async with self._turn:
            while asked := {name: at for name, at in self._following.at.items() if name in self._due}:
                self._due.clear()
                news = {found.partition: found for found in await self._source.news(fetch, Cursor(asked))}
                self._alive_at = asyncio.get_running_loop().time()
                self._answered = True
                self._following.answered(asked)
                for found in map(news.__getitem__, control_first(news)):
                    if self._following.at.get(found.partition) is not asked[found.partition]:
                        self._due.add(found.partition)  # left meanwhile, and perhaps followed again from elsewhere
                        continue
                    self._following.deliver(found.partition, found.records)
                    self._following.step_over(found.partition, *found.last)
                    if found.more:
                        self._due.add(found.partition)

    def _look_for_expected(self) -> None:
        self._overdue = None
        expected, self._expected = self._expected, {}
        at = self._following.at
        self._ring(*(name for name, head in expected.items() if name in at and head[:2] > at[name][:2]))

    def _on_doorbell(self, payload: str) -> None:
        """Whoever may connect may NOTIFY: the pointer says where to look, and nothing else."""
        self._alive_at = asyncio.get_running_loop().time()
        if payload == self._own:
            self._heard.set()
            return
        try:
            name, epoch, offset = payload.split(" ")
            place = (int(epoch), int(offset))
        except ValueError:
            return
        at = self._following.at.get(name)
        if at is not None and place > at[:2]:
            self._ring(name)

    def _on_lost(self) -> None:
        self._doubted = True
        self._heard.set()
        self._ring()

    def _ring(self, *partitions: str) -> None:
        self._due.update(partitions)
        self._bell.set()
