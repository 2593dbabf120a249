"""The live read of Postgres: NOTIFY rings, and what is delivered is read from the table, after our own place."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from shared.backoff import Backoff
from shared.counters import RECONNECTS
from shared.cursor import Cursor, Position
from shared.errors import TransportUnavailable
from shared.record import Record
from shared.transports.following import Following, control_first
from shared.transports.postgres_connection import Fetch, Row, listen

log = logging.getLogger(__name__)

CHECK = 30.0
"""Seconds between two looks at the heads, whatever is heard: a connection may be dead without a word, and behind a
pooler that cannot be told from its name no doorbell ever rings."""

POLL_FAST, POLL_SLOW = 0.2, 2.0
"""Seconds between two looks at the heads while no connection listens: after a record, and after a while without."""


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

    async def places(self, fetch: Fetch, partitions: Sequence[str]) -> Cursor:
        """Return the heads."""

    async def news(self, fetch: Fetch, seen: Cursor) -> list[News]:
        """Return what lies after these places, at most a page a partition."""

    async def sweep(self, fetch: Fetch) -> None:
        """Drop what is too old from partitions that nobody publishes to."""


class PostgresTail:
    """Reads all followed partitions in one statement whenever a doorbell rings for one of them."""

    def __init__(self, source: Source, url: str, channel: str, following: Following, check: float) -> None:
        self._source = source
        self._url = url
        self._channel = channel
        self._following = following
        self._check = check
        self._due: set[str] = set()  # partitions that hold more than we have heard, as far as we know
        self._bell = asyncio.Event()
        self._turn = asyncio.Lock()  # a poll may be under way when the listening connection is back
        self._away = asyncio.Event()
        self._away.set()
        self._polled = False

    @property
    def running(self) -> bool:
        """Whether we hear of new records now, be it by polling."""
        return self._polled or not self._away.is_set()

    def follow(self, positions: Mapping[str, Position | None]) -> None:
        """Read these partitions too, and at once what they hold after these places."""
        if self._following.follow(positions):
            self._ring(*positions)

    def unfollow(self, partitions: Sequence[str]) -> None:
        """Stop reading these partitions."""
        self._following.unfollow(partitions)

    async def run(self) -> None:
        """Read until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._poll())

    async def _listen(self) -> None:
        """Listen whenever something is followed; a failure of any kind is logged and followed by another try."""
        backoff = Backoff()
        while True:
            await self._following.wanted()
            try:
                async with listen(self._url, self._channel, self._on_doorbell, self._on_lost) as fetch:
                    await self._look(fetch)  # what was appended before we listened rang for nobody
                    self._away.clear()
                    self._polled = False
                    backoff.reset()
                    await self._serve(fetch)
                continue
            except TransportUnavailable as error:
                log.warning("tail lost, reconnecting: %s", error.detail)
            except Exception:
                log.exception("tail failed, reconnecting")
            finally:
                self._away.set()
            RECONNECTS.add()
            await asyncio.sleep(backoff.next())

    async def _serve(self, fetch: Fetch) -> None:
        """Read when it rings, and look now and then; return where nobody follows anything any more.

        A database that sleeps when it is not used should be left alone then.
        """
        loop = asyncio.get_running_loop()
        next_look = loop.time() + self._check
        while True:
            self._bell.clear()
            await self._read(fetch)
            try:
                async with asyncio.timeout_at(next_look):
                    await self._bell.wait()
            except TimeoutError:
                if not self._following.at:
                    return
                await self._look(fetch)
                await self._source.sweep(fetch)
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
                self._polled = self._away.is_set()
            except TransportUnavailable:
                self._polled = False  # `_listen` tells why
            except Exception:
                log.exception("a poll failed")
            pause = POLL_FAST if self._following.at != before else min(pause * 2, POLL_SLOW)

    async def _look(self, fetch: Fetch) -> None:
        """Compare our places with the heads: the log may be another one now, or hold what did not ring for us."""
        async with self._turn:
            if await self._following.verify(lambda names: self._source.places(fetch, names)):
                self._ring(*self._following.at)

    async def _read(self, fetch: Fetch) -> None:
        """Deliver what is due, page by page."""
        async with self._turn:
            while asked := {name: at for name, at in self._following.at.items() if name in self._due}:
                self._due.clear()
                found = {news.partition: news for news in await self._source.news(fetch, Cursor(asked))}
                for news in map(found.__getitem__, control_first(found)):
                    if self._following.at.get(news.partition) is not asked[news.partition]:
                        self._due.add(news.partition)  # left meanwhile, and perhaps followed again from elsewhere
                        continue
                    self._following.deliver(news.partition, news.records)
                    self._following.step_over(news.partition, *news.last)
                    if news.more:
                        self._due.add(news.partition)

    def _on_doorbell(self, pointer: str) -> None:
        """Whoever may connect may NOTIFY: the pointer says where to look, and nothing else."""
        try:
            name, epoch, offset = pointer.split(" ")
            place = (int(epoch), int(offset))
        except ValueError:
            return
        at = self._following.at.get(name)
        if at is not None and place > at[:2]:
            self._ring(name)

    def _on_lost(self) -> None:
        self._ring(*self._following.at)  # the read that follows fails, and says why

    def _ring(self, *partitions: str) -> None:
        self._due.update(partitions)
        self._bell.set()
