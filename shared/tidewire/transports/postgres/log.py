"""The log in Postgres 14 or newer: tables and functions of the schema that is named like the prefix.

`sql/001_log.sql` says how the log lies there; applications publish into it inside their own transactions with
`realtime_publish` (`sql/002_publish.sql`).
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import groupby

from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event
from tidewire.model.partition_schemes import Registry, read_announcement
from tidewire.model.partitions import SCHEMES, Partitions
from tidewire.model.record import Gap, Record, pack, unpack
from tidewire.settings.postgres_url import is_pooled
from tidewire.transports import log_base
from tidewire.transports.appending import FOREVER, Answer, Part, Placed, Writer
from tidewire.transports.base import Handler, Receipt, Retention
from tidewire.transports.log_follower import Following, stop
from tidewire.transports.postgres.appends import Appends, Call, Entry
from tidewire.transports.postgres.connection import CONNECTIONS, POOLED_HOST, Fetch, Pool, Row, Server
from tidewire.transports.postgres.errors import MIGRATE, event_refused
from tidewire.transports.postgres.tail import CHECK, News, PostgresTail
from tidewire.transports.single_flight import SharedHead, SharedPages

log = logging.getLogger(__name__)

SCHEMA_VERSION = 5
"""The number of the last migration that this code needs."""

NEWS_BYTES = 4 * 1024 * 1024
"""Of one partition that the tail reads at once: the largest events must fit through a slow line within the time-out."""

_LOOK = "select max(number), {0}.schemes_check() from {0}.migrations"
_CONFIGURE = "select changed from {}.configure($1, $2, $3, $4, $5)"
_APPEND = (
    'select epoch, "offset", "check", time, duplicate, elsewhere'
    " from {}.append_scoped($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
)
_PLACES = 'select partition, epoch, "offset", "check", time from {}.places($1, $2)'
_PAGE = 'select partition, epoch, "offset", "check", time, event from {}.page($1, $2, $3, $4, {}, {})'
_NEWS = 'select partition, epoch, "offset", "check", time, event from {}.news($1, $2, $3, {}, {})'
_SWEEP = "select {}.sweep($1, $2, $3)"
_CHECK_WRITABLE = "select {}.check_writable()"
_NOTIFY = "select pg_notify($1, $2)"


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
        self._server = Server(url)
        self._listen_server = self._server if listen_url in (None, url) else Server(listen_url)
        self._listens_pooled = is_pooled(listen_url or url)
        self._channel = f"tidewire:{prefix}"
        self._scheme = partitions
        self._writer = Writer(partitions, retention, self._append_parts)
        self._limits = _limits(retention)
        self._check = check
        self._tails: set[PostgresTail] = set()
        self._pool = Pool(self._server, on_silence=self._doubt_tails)
        self._heads = SharedHead(self._read_heads)
        self._pages = SharedPages(self._read_page, CONNECTIONS // 2)
        self._appends = Appends(self._append)
        self._configured = False
        self._configuring: asyncio.Task[None] | None = None
        schema = f'"{prefix}"'
        self._look_sql = _LOOK.format(schema)
        self._configure_sql = _CONFIGURE.format(schema)
        self._append_sql = _APPEND.format(schema)
        self._places_sql = _PLACES.format(schema)
        self._page_sql = _PAGE.format(schema, log_base.PAGE, log_base.PAGE_BYTES)
        self._news_sql = _NEWS.format(schema, log_base.PAGE, NEWS_BYTES)
        self._sweep_sql = _SWEEP.format(schema)
        self._check_sql = _CHECK_WRITABLE.format(schema)

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Append all events or none, in one round trip, together with what others publish at the same moment."""
        await self._prepare()
        return await self._writer.publish(events)

    @asynccontextmanager
    async def on_message(self, handler: Handler) -> AsyncIterator[PostgresTail]:
        """Open the tail: one connection that listens, whatever the number of subscribers.

        Raises TransportUnavailable where the host is a pooler's.
        """
        if self._listens_pooled:
            raise TransportUnavailable(f"DATABASE_URL: {POOLED_HOST}")
        tail = PostgresTail(self, self._listen_server, self._channel, Following(handler), self._check)
        self._tails.add(tail)
        task = asyncio.create_task(tail.run())
        try:
            yield tail
        finally:
            self._tails.discard(tail)
            await stop(task)

    async def head(self, partitions: Sequence[str]) -> Cursor:
        """Return the place after the last record of each partition, in one round trip."""
        return await self._heads(partitions)

    async def seek(self, partitions: Sequence[str], time: int | None) -> Cursor:
        """Return the place before the first record at or after `time`, in one round trip."""
        return await self.places(self.fetch, partitions, time or 0)

    def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        """Yield what lies in `(after, until]`; see `Log.replay`."""
        return log_base.replay(after, until, read_page=self._pages, seek=self.seek, forget=self._pages.forget)

    def replay_pages(self, after: Cursor, until: Cursor) -> AsyncIterator[Sequence[Record | Gap]]:
        """Yield the same page by page; see `PagedLog`."""
        return log_base.pages(after, until, read_page=self._pages, seek=self.seek, forget=self._pages.forget)

    async def ping(self) -> None:
        """Return if Postgres answers, has what we need and takes writes, or raise TransportUnavailable."""
        await self.fetch(self._check_sql)

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
            more = len(page) == log_base.PAGE or sum(len(row[5]) for row in page) > NEWS_BYTES // 8
            news.append(News(partition, parse_rows(page), (page[-1][1], page[-1][2]), more))
        return news

    def condemn(self) -> None:
        """Use no connection of the pool again that is idle now."""
        self._pool.condemn()

    async def notify(self, payload: str) -> None:
        """Ring the doorbell, on a connection of the pool."""
        await self.fetch(_NOTIFY, self._channel, payload)

    async def sweep(self, fetch: Fetch) -> None:
        """Drop what is too old from partitions that nobody publishes to."""
        await fetch(self._sweep_sql, *self._limits)
        await self._writer.announce()  # where only realtime_publish appends, nobody else would renew the scheme

    async def fetch(self, sql: str, *arguments: object) -> list[Row]:
        """Run a statement on a connection of the pool; raises TransportUnavailable."""
        await self._prepare()
        return await self._pool.fetch(sql, *arguments)

    async def _prepare(self) -> None:
        if not self._configured:
            if self._configuring is None:
                self._configuring = asyncio.create_task(self._configure())
            await asyncio.shield(self._configuring)

    async def _append_parts(self, expected: str, parts: Sequence[Part]) -> tuple[list[Answer], Registry | None]:
        entries = [Entry(p.partition, p.scope, p.event.chained, pack(p.event).decode(), _join(p.others)) for p in parts]
        rows = await self._appends.add(expected, entries)
        if not rows:
            return [None] * len(parts), await self._read_registry()
        answers = [_answer(part, row) for part, row in zip(parts, rows, strict=True)]
        placed = zip(parts, answers, strict=True)
        self._expect({part.partition: answer.position for part, answer in placed if isinstance(answer, Placed)})
        return answers, None

    async def _append(self, call: Call) -> list[Row]:
        limits = _limits(FOREVER) if call.partitions == [SCHEMES] else self._limits
        try:
            return await self._pool.fetch(self._append_sql, *call, *limits)
        except TransportUnavailable as error:
            refused = event_refused(error.__cause__)
            if refused is None:
                raise
            raise refused from error

    async def _read_heads(self, partitions: Sequence[str]) -> Cursor:
        heads = await self.places(self.fetch, partitions)
        self._expect(heads.positions)
        return heads

    def _expect(self, heads: Mapping[str, Position]) -> None:
        for tail in self._tails:
            tail.expect(heads)

    def _doubt_tails(self) -> None:
        for tail in self._tails:
            tail.request_refresh()

    async def _read_registry(self) -> Registry:
        head = (await self.places(self._pool.fetch, (SCHEMES,))).positions[SCHEMES]
        rows = await self._pool.fetch(self._page_sql, SCHEMES, head.epoch, 0, head.offset)
        announced = [(read_announcement(event), at) for event, _, at in parse_rows(rows)]
        return Registry(head.check, [(one, at.time) for one, at in announced if one and at])

    async def _read_page(self, partition: str, after: Position, until: int) -> list[Record]:
        return parse_rows(await self.fetch(self._page_sql, partition, after.epoch, after.offset, until))

    async def _configure(self) -> None:
        """Check the schema, announce the scheme, and set it as what SQL publishers go by: once a process.

        Announced first: where the scheme is refused, realtime_publish would append by it where nobody reads.
        """
        scheme = [sorted(self._scheme.types), self._scheme.user_shards]
        try:
            ((version, schemes),) = await self._pool.fetch(self._look_sql)
            if version < SCHEMA_VERSION:
                raise TransportUnavailable(f"The database's schema is older than this code needs; {MIGRATE}")
            if schemes:
                self._writer.registry = await self._read_registry()
            await self._writer.announce()
            ((changed,),) = await self._pool.fetch(self._configure_sql, *scheme, *self._limits)
        finally:
            self._configuring = None
        if changed:
            log.info("realtime_publish goes by this process's partitions and retention from now on")
        self._configured = True


def _limits(retention: Retention) -> tuple[int, int, int]:
    return int(retention.age * 1000), retention.events, int(retention.idempotency_window * 1000)


def _join(others: Sequence[tuple[str, str]]) -> str:
    """Return each as the partition, a space and SHA-256 of the scope, which may be longer than an index entry."""
    return ",".join(f"{name} {hashlib.sha256(scope.encode()).hexdigest()}" for name, scope in others)


def _answer(part: Part, row: Row) -> Answer:
    if row[5] is None:
        return Placed(Position(*row[:4]), row[4])
    found = (place.split(" ") for place in row[5].split(","))  # each as `n epoch offset check time`, n from 1
    return {part.others[int(n) - 1]: Position(int(epoch), int(at), check, int(t)) for n, epoch, at, check, t in found}


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
