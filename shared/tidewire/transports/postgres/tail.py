"""The tail of Postgres: NOTIFY wakes it, and it reads the records after its positions from the table."""

import asyncio
import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Cursor, Position
from tidewire.model.record import Record
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.counters import RECONNECTS
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports.base import Handler
from tidewire.transports.log_follower import UNKNOWN_FAILURE, FollowingTail, control_first
from tidewire.transports.postgres import connection
from tidewire.transports.postgres.connection import Fetch, Row, Server, listen
from tidewire.transports.postgres.sleeping import Sleeping

log = logging.getLogger(__name__)

CHECK_HEADS = 10.0
"""Seconds between two reads of the heads, whatever notifications arrive: a dead connection may report nothing."""

SWEEP_EVERY = 3  # checks of the heads between two sweeps of old records

POLL_MIN, POLL_MAX = 0.2, 2.0
"""Seconds between two reads of the heads while no connection listens: after a record, and after a while without."""

OVERDUE = 1.0  # seconds after which a record that the pool knows of should have been notified

LISTEN_AGAIN = 30.0  # seconds until the next try, after a connection on which no notification arrived

NOT_NOTIFIED = (
    "a NOTIFY of this process does not reach its own LISTEN: a pooler in front of the database gives each transaction"
    f" another session. Events are polled for, up to {POLL_MAX:g} s late: let DATABASE_URL name the direct host"
)

_SLEEPS = "the log is not used: the database may sleep until it is (REALTIME_SLEEP_AFTER)"
_AWAKE = "the log is used again: the tail checks its heads"


class NewRecords(NamedTuple):
    """The result of one read of a partition; `last` is the last row's epoch and offset, readable or not."""

    partition: str
    records: list[Record]
    last: tuple[int, int]
    more: bool


class Source(Protocol):
    """The tail's log."""

    async def fetch(self, sql: str, *arguments: object) -> list[Row]:
        """Run a statement on a connection that does not listen."""

    def evict(self) -> None:
        """Close idle connections that do not listen."""

    async def notify(self, payload: str) -> None:
        """Send a notification, over a connection that does not listen."""

    async def read_heads(self, fetch: Fetch, partitions: Sequence[str]) -> Cursor:
        """Return the heads."""

    async def read_after(self, fetch: Fetch, positions: Cursor) -> list[NewRecords]:
        """Return the records after these positions, at most a page per partition."""

    async def sweep(self, fetch: Fetch) -> None:
        """Delete old records of partitions to which nothing is published."""


class _NotNotifiedError(Exception):
    """The connection answers, but no notification arrives on it."""


class PostgresTail(FollowingTail):
    """Reads all followed partitions in one statement whenever a notification arrives for one of them.

    `running`: the last read was answered, on whichever connection; while none listens, the tail polls. While the
    database may sleep (`sleeping`), it sends nothing: an open connection still listens, and a lost one stays lost.
    """

    def __init__(
        self, source: Source, server: Server, channel: str, handler: Handler, check: float, sleeping: Sleeping
    ) -> None:
        super().__init__(handler)
        self._sleeping = sleeping
        self._source = source
        self._server = server
        self._channel = channel
        self._check = check
        self._due: set[str] = set()  # partitions that are to be read: they may hold new records
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()  # a poll may still be under way when the listening connection is back
        self._not_listening = asyncio.Event()
        self._not_listening.set()
        self._reconnect_requested = False
        self._alive_at = 0.0  # on the loop's clock: when the listening connection last brought something
        self._expected: dict[str, Position] = {}  # heads that the pool has read, after our positions
        self._overdue: asyncio.TimerHandle | None = None
        self._own_payload = f"check {secrets.token_hex(8)}"  # of the notification to this process itself
        self._notified = asyncio.Event()  # that one has arrived
        self.advice: str | None = None
        self._warnings = ThrottledLog(log)

    @property
    def dozes(self) -> bool:
        """Whether the database may sleep at times."""
        return self._sleeping.enabled

    @property
    def asleep(self) -> bool:
        """Whether the database may sleep now; see `Sleeping`."""
        return self._sleeping.asleep

    def expect(self, heads: Mapping[str, Position]) -> None:
        """Read up to these heads soon, if no notification arrives for them."""
        ahead = self.follower.ahead(heads)
        self._expected.update(ahead)
        if ahead and self._overdue is None:
            self._overdue = asyncio.get_running_loop().call_later(OVERDUE, self._read_expected)

    async def verify(self) -> None:
        """Compare the tail's positions with heads read over new connections; see `Verifying`."""
        self._source.evict()
        await self._check_heads(self._source.fetch)
        self._reconnect_requested = not self._not_listening.is_set()  # it may lead to a node that was demoted
        self._read_soon(self.follower.positions)

    def request_refresh(self) -> None:
        """Open the listening connection anew, unless it was active just now: another connection has gone silent."""
        silence = asyncio.get_running_loop().time() - self._alive_at
        if silence >= connection.TIMEOUT and not self._not_listening.is_set():
            self._reconnect_requested = True
            self._wake.set()

    async def run(self) -> None:
        """Read until cancelled."""
        self._sleeping.add_listener(self._wake.set)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen())
                tasks.create_task(self._poll())
        finally:
            self._sleeping.remove_listener(self._wake.set)
            if self._overdue is not None:
                self._overdue.cancel()

    async def _listen(self) -> None:
        """Listen while partitions are followed; a failure of any kind is logged and followed by another try."""
        backoff = Backoff()
        while True:
            await self.follower.wait_for_partitions()
            await self._sleeping.until_due()
            pause = None
            try:
                async with listen(self._server, self._channel, self._on_notification, self._on_lost) as fetch:
                    await self._begin(fetch)
                    backoff.reset()
                    await self._serve(fetch)
                continue
            except _NotNotifiedError:
                pause = LISTEN_AGAIN  # `_poll` reads meanwhile
                if self.advice is None:
                    self.advice = NOT_NOTIFIED
                    log.warning(NOT_NOTIFIED)
            except TransportUnavailable as error:
                self._fail(error.detail)
                self._warnings.warn(f"tail lost, reconnecting: {error.detail}")
            except Exception:  # noqa: BLE001 - `exception` logs it
                self._fail(UNKNOWN_FAILURE)
                self._warnings.exception("tail failed, reconnecting")
            finally:
                self._not_listening.set()
            RECONNECTS.add()
            await asyncio.sleep(backoff.next() if pause is None else pause)

    async def _begin(self, fetch: Fetch) -> None:
        """Read what was appended before the connection listened, and check that notifications arrive on it."""
        self._reconnect_requested = False
        await self._check_heads(fetch)
        self._read_soon(self.follower.positions)
        await self._read(fetch)
        self._notified.clear()
        try:
            await self._source.notify(self._own_payload)
        except TransportUnavailable:
            pass  # the pool's server cannot be reached, but this one can
        else:
            try:
                async with asyncio.timeout(connection.TIMEOUT):
                    await self._notified.wait()
            except TimeoutError:
                await self._check_heads(fetch)  # raises if the connection has gone silent
                raise _NotNotifiedError from None
            if self._reconnect_requested:
                raise TransportUnavailable("the listening connection was closed")
            self.advice = None
        self._not_listening.clear()

    async def _serve(self, fetch: Fetch) -> None:
        """Read when a notification arrives, and check the heads regularly; return once no partition is followed.

        A database that sleeps while it is not used should be left alone then. The same holds if it may sleep because
        the log is not used: then also return if the connection is lost, as it is when the database falls asleep.
        """
        loop = asyncio.get_running_loop()
        next_check = loop.time() + self._check
        checks = 0
        was_asleep = False
        if self._sleeping.asleep:  # this connection is of a wake-up, and will be cut before the next check
            await self._source.sweep(fetch)
        while True:
            self._wake.clear()
            if self._reconnect_requested:
                if self._sleeping.asleep:
                    return
                raise TransportUnavailable("the listening connection was closed, or is as old as one that failed")
            await self._read(fetch)
            asleep = self._sleeping.asleep
            if asleep != was_asleep:
                was_asleep = asleep
                log.info(_SLEEPS if asleep else _AWAKE)
            try:
                async with asyncio.timeout_at(loop.time() + self._sleeping.seconds() if asleep else next_check):
                    await self._wake.wait()
            except TimeoutError:
                if not self.follower.positions:
                    return
                if self._sleeping.asleep and not asleep:
                    continue
                await self._check_heads(fetch)
                if checks % SWEEP_EVERY == 0:
                    await self._source.sweep(fetch)
                checks += 1
                next_check = loop.time() + self._check

    async def _poll(self) -> None:
        """Read the heads regularly while no connection listens: the pool may reach a server that the tail cannot."""
        pause = POLL_MIN
        while True:
            await self._not_listening.wait()
            await self.follower.wait_for_partitions()
            await self._sleeping.until_due()
            await asyncio.sleep(pause)
            if not self._not_listening.is_set():
                pause = POLL_MIN
                continue
            before = dict(self.follower.positions)
            try:
                await self._check_heads(self._source.fetch)
                await self._read(self._source.fetch)
                self.running = True
            except TransportUnavailable as error:
                self._fail(error.detail)  # `_listen` logs it
            except Exception:  # noqa: BLE001 - `exception` logs it
                self._fail(UNKNOWN_FAILURE)
                self._warnings.exception("a poll failed")
            pause = POLL_MIN if self.follower.positions != before else min(pause * 2, POLL_MAX)

    def _fail(self, why: str) -> None:
        self.running = False
        self.failure = why

    async def _check_heads(self, fetch: Fetch) -> None:
        """Compare our positions with the heads: the log may be another one, or hold records without a notification."""
        async with self._turn:
            if await self.follower.verify(lambda names: self._source.read_heads(fetch, names)):
                self._read_soon(self.follower.positions)
            self._alive_at = asyncio.get_running_loop().time()
            self._sleeping.answered()

    async def _read(self, fetch: Fetch) -> None:
        """Deliver the new records of partitions that are due, page by page."""
        positions = self.follower.positions
        async with self._turn:
            while after := {name: at for name, at in positions.items() if name in self._due}:
                self._due.clear()
                pages = {page.partition: page for page in await self._source.read_after(fetch, Cursor(after))}
                self._alive_at = asyncio.get_running_loop().time()
                self.running = True
                self.follower.mark_read(after)
                if pages:
                    self._sleeping.use()
                for page in map(pages.__getitem__, control_first(pages)):
                    if positions.get(page.partition) is not after[page.partition]:
                        self._due.add(page.partition)  # unfollowed meanwhile, and perhaps followed again from elsewhere
                        continue
                    self.follower.deliver(page.partition, page.records)
                    self.follower.skip_unreadable(page.partition, *page.last)
                    if page.more:
                        self._due.add(page.partition)

    def _read_expected(self) -> None:
        self._overdue = None
        expected, self._expected = self._expected, {}
        self._read_soon(self.follower.ahead(expected))

    def _on_notification(self, payload: str) -> None:
        """Read the partition that a notification names. Every role may NOTIFY, so nothing else in it is used."""
        self._alive_at = asyncio.get_running_loop().time()
        if payload == self._own_payload:
            self._notified.set()
            return
        try:
            name, epoch, offset = payload.split(" ")
            head = (int(epoch), int(offset))
        except ValueError:
            return
        at = self.follower.positions.get(name)
        if at is not None and head > at[:2]:
            self._read_soon((name,))

    def _on_lost(self) -> None:
        self._reconnect_requested = True
        self._notified.set()
        self._wake.set()

    def _on_followed(self, partitions: Iterable[str]) -> None:
        self._read_soon(partitions)

    def _read_soon(self, partitions: Iterable[str]) -> None:
        self._due.update(partitions)
        self._wake.set()
