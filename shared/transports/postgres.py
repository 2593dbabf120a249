"""The log in Postgres 14 or newer: tables and functions of the schema that is named like the prefix.

`sql/001_log.sql` says how the log lies there; applications publish into it inside their own transactions with
`realtime_publish` (`sql/002_publish.sql`).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby

from shared.cursor import Cursor, Position
from shared.errors import TransportUnavailable
from shared.event import Event
from shared.partitions import Partitions
from shared.record import Gap, Record, pack, unpack
from shared.transports import reading
from shared.transports.base import Handler, Receipt, Retention
from shared.transports.following import Following, stop
from shared.transports.postgres_appends import Appends, Call, Entry
from shared.transports.postgres_connection import CONNECTIONS, MIGRATE, POOLED_HOST, Fetch, Pool, Row, is_pooled
from shared.transports.postgres_tail import CHECK, News, PostgresTail
from shared.transports.sharing import SharedHead, SharedPages

log = logging.getLogger(__name__)

SCHEMA_VERSION = 3
"""The number of the last migration that this code needs."""

NEWS_BYTES = 4 * 1024 * 1024
"""Of one partition that the tail reads at once: the largest events must fit through a slow line within the time-out."""

_CONFIGURE = "select version, changed from {}.configure($1, $2, $3, $4, $5)"
_APPEND = 'select epoch, "offset", "check", time, duplicate from {}.append($1, $2, $3, $4, $5, $6, $7)'
_PLACES = 'select partition, epoch, "offset", "check", time from {}.places($1, $2)'
_PAGE = 'select partition, epoch, "offset", "check", time, event from {}.page($1, $2, $3, $4, {}, {})'
_NEWS = 'select partition, epoch, "offset", "check", time, event from {}.news($1, $2, $3, {}, {})'
_SWEEP = "select {}.sweep($1, $2, $3)"


class PostgresLog:
    """A `Log` on Postgres. `url` may be a pooler's; the tail connects to `listen_url`, which may not."""

    def __init__(
        self,
        url: str,
        prefix: str = "rt",
        partitions: Partitions = Partitions(),
        retention: Retention = Retention(),
        *,
        listen_url: str | None = None,
        check: float = CHECK,
    ) -> None:
        self._listen_url = listen_url or url
        self._channel = f"tidemark:{prefix}"
        self._scheme = partitions
        self._limits = (
            int(retention.age * 1000),
            retention.events,
            int(retention.idempotency_window * 1000),
        )
        self._check = check
        self._pool = Pool(url)
        self._heads = SharedHead(lambda names: self.places(self.fetch, names))
        self._pages = SharedPages(self._read_page, CONNECTIONS // 2)
        self._appends = Appends(self._append)
        self._configured = False
        self._configuring: asyncio.Task[None] | None = None
        schema = f'"{prefix}"'
        self._configure_sql = _CONFIGURE.format(schema)
        self._append_sql = _APPEND.format(schema)
        self._places_sql = _PLACES.format(schema)
        self._page_sql = _PAGE.format(schema, reading.PAGE, reading.PAGE_BYTES)
        self._news_sql = _NEWS.format(schema, reading.PAGE, NEWS_BYTES)
        self._sweep_sql = _SWEEP.format(schema)

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Append all events or none, in one round trip, together with what others publish at the same moment."""
        parts = [
            (index, partition, stored)
            for index, event in enumerate(events)
            for partition, stored in self._scheme.route(event)
        ]
        entries = [Entry(partition, stored.key, pack(stored).decode()) for _, partition, stored in parts]
        positions: list[dict[str, Position]] = [{} for _ in events]
        duplicate = [True] * len(events)
        for (index, partition, _), row in zip(parts, await self._appends.add(entries), strict=True):
            positions[index][partition] = Position(*row[:4])
            duplicate[index] = duplicate[index] and row[4]
        return [Receipt(e.id, p, d) for e, p, d in zip(events, positions, duplicate, strict=True)]

    @asynccontextmanager
    async def on_message(self, handler: Handler) -> AsyncIterator[PostgresTail]:
        """Open the tail: one connection that listens, whatever the number of subscribers.

        Raises TransportUnavailable where the host is a pooler's.
        """
        if is_pooled(self._listen_url):
            raise TransportUnavailable(f"DATABASE_URL: {POOLED_HOST}")
        tail = PostgresTail(self, self._listen_url, self._channel, Following(handler), self._check)
        task = asyncio.create_task(tail.run())
        try:
            yield tail
        finally:
            await stop(task)

    async def head(self, partitions: Sequence[str]) -> Cursor:
        """Return the place after the last record of each partition, in one round trip."""
        return await self._heads(partitions)

    async def seek(self, partitions: Sequence[str], time: int | None) -> Cursor:
        """Return the place before the first record at or after `time`, in one round trip."""
        return await self.places(self.fetch, partitions, time or 0)

    def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        """Yield what lies in `(after, until]`; see `Log.replay`."""
        return reading.replay(after, until, read_page=self._pages, seek=self.seek, forget=self._pages.forget)

    def replay_pages(self, after: Cursor, until: Cursor) -> AsyncIterator[Sequence[Record | Gap]]:
        """Yield the same page by page; see `PagedLog`."""
        return reading.pages(after, until, read_page=self._pages, seek=self.seek, forget=self._pages.forget)

    async def ping(self) -> None:
        """Return if Postgres answers and has what we need."""
        await self.fetch("select 1")

    @property
    def is_away(self) -> bool:
        """Whether no connection could be opened the last times."""
        return self._pool.is_away

    async def aclose(self) -> None:
        """Close every connection, once an append that is under way has been answered."""
        await self._appends.aclose()
        await self._heads.aclose()
        await self._pages.aclose()
        await self._pool.aclose()

    async def places(self, fetch: Fetch, partitions: Sequence[str], since: int | None = None) -> Cursor:
        """Ask for places by `fetch`: heads, or those before a time."""
        rows = await fetch(self._places_sql, list(partitions), since)
        return Cursor({row[0]: Position(*row[1:5]) for row in rows})

    async def news(self, fetch: Fetch, seen: Cursor) -> list[News]:
        """Return what lies after these places, at most a page a partition, in one round trip."""
        names, at = list(seen.positions), seen.positions.values()
        rows = await fetch(self._news_sql, names, [place.epoch for place in at], [place.offset for place in at])
        news = []
        for partition, group in groupby(rows, key=lambda row: row[0]):
            page = list(group)
            # What was cut for its size has most of that: an event is less than an eighth, a character at most 4 bytes.
            more = len(page) == reading.PAGE or sum(len(row[5]) for row in page) > NEWS_BYTES // 8
            news.append(News(partition, parse_rows(page), (page[-1][1], page[-1][2]), more))
        return news

    async def sweep(self, fetch: Fetch) -> None:
        """Drop what is too old from partitions that nobody publishes to."""
        await fetch(self._sweep_sql, *self._limits)

    async def fetch(self, sql: str, *arguments: object) -> list[Row]:
        """Run a statement on a connection of the pool; raises TransportUnavailable."""
        if not self._configured:
            if self._configuring is None:
                self._configuring = asyncio.create_task(self._configure())
            await asyncio.shield(self._configuring)
        return await self._pool.fetch(sql, *arguments)

    async def _append(self, call: Call) -> list[Row]:
        return await self.fetch(self._append_sql, *call, *self._limits)

    async def _read_page(self, partition: str, after: Position, until: int) -> list[Record]:
        return parse_rows(await self.fetch(self._page_sql, partition, after.epoch, after.offset, until))

    async def _configure(self) -> None:
        """Check the schema, and tell it what SQL publishers must go by: once a process."""
        scheme = [sorted(self._scheme.types), self._scheme.user_shards]
        try:
            ((version, changed),) = await self._pool.fetch(self._configure_sql, *scheme, *self._limits)
        finally:
            self._configuring = None
        if version < SCHEMA_VERSION:
            raise TransportUnavailable(f"The database's schema is older than this code needs; {MIGRATE}")
        if changed:
            log.info("realtime_publish goes by this process's partitions and retention from now on")
        self._configured = True


def parse_rows(rows: Sequence[Row]) -> list[Record]:
    """Return the records of rows; one that cannot be read is left out, and so becomes a gap."""
    records = []
    for partition, epoch, offset, check, time, event in rows:
        try:
            records.append(Record(unpack(event), partition, Position(epoch, offset, check, time)))
        except (ValueError, RecursionError):
            # The error's text may hold event data: it stays out of the log.
            log.error("partition %s: offset %d of epoch %d is not a record", partition, offset, epoch)  # noqa: TRY400
    return records
