"""The log in Postgres 14 or newer: tables and functions in the schema that is named like the prefix.

`sql/001_log.sql` describes the tables; applications publish inside their own transactions with `realtime_publish`
(`sql/002_publish.sql`).
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
from tidewire.model.record import Record, pack, unpack
from tidewire.settings.postgres_url import is_pooled
from tidewire.transports.appending import FOREVER, Answer, Part, Placed
from tidewire.transports.base import Handler, Receipt, Retention
from tidewire.transports.log_base import PAGE, PAGE_BYTES, LogBase
from tidewire.transports.postgres.appends import Appends, Call, Entry
from tidewire.transports.postgres.connection import CONNECTIONS, POOLED_HOST, Fetch, Pool, Row, Server
from tidewire.transports.postgres.errors import MIGRATE, event_refused
from tidewire.transports.postgres.sleeping import Sleep, Sleeping
from tidewire.transports.postgres.tail import CHECK_HEADS, NewRecords, PostgresTail

log = logging.getLogger(__name__)

SCHEMA_VERSION = 6
"""The last migration that this code needs."""

TAIL_BYTES = 4 * 1024 * 1024
"""Of one partition in one read of the tail: it must pass a slow line within the time-out."""

_STATE = "select max(number), {0}.schemes_check() from {0}.migrations"
_CONFIGURE = "select changed from {}.configure($1, $2, $3, $4, $5)"
_APPEND = (
    'select epoch, "offset", "check", time, duplicate, elsewhere'
    " from {}.append_scoped($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
)
_POSITIONS = 'select partition, epoch, "offset", "check", time from {}.places($1, $2)'
_PAGE = 'select partition, epoch, "offset", "check", time, event from {}.page($1, $2, $3, $4, {}, {})'
_READ_AFTER = 'select partition, epoch, "offset", "check", time, event from {}.news($1, $2, $3, {}, {})'
_SWEEP = "select {}.sweep($1, $2, $3)"
_CHECK_WRITABLE = "select {}.check_writable()"
_NOTIFY = "select pg_notify($1, $2)"


class PostgresLog(LogBase[PostgresTail]):
    """A `Log` on Postgres. `url` may be a pooler's; the tail connects to `listen_url`, which may not."""

    def __init__(
        self,
        url: str,
        prefix: str = "rt",
        partitions: Partitions = Partitions(),
        retention: Retention = Retention(),
        *,
        listen_url: str | None = None,
        check: float = CHECK_HEADS,
        sleep: Sleep = Sleep(),
    ) -> None:
        super().__init__(partitions, retention, reads_at_once=CONNECTIONS // 2)
        self._server = Server(url)
        self._listen_server = self._server if listen_url in (None, url) else Server(listen_url)
        self._listens_pooled = is_pooled(listen_url or url)
        self._channel = f"tidewire:{prefix}"
        self._scheme = partitions
        self._limits = _limits(retention)
        self._check = check
        self._sleeping = Sleeping(sleep)
        self._pool = Pool(self._server, on_silence=self._refresh_tails)
        self._appends = Appends(self._append_call)
        self._configured = False
        self._configuring: asyncio.Task[None] | None = None
        schema = f'"{prefix}"'
        self._state_sql = _STATE.format(schema)
        self._configure_sql = _CONFIGURE.format(schema)
        self._append_sql = _APPEND.format(schema)
        self._positions_sql = _POSITIONS.format(schema)
        self._page_sql = _PAGE.format(schema, PAGE, PAGE_BYTES)
        self._read_after_sql = _READ_AFTER.format(schema, PAGE, TAIL_BYTES)
        self._sweep_sql = _SWEEP.format(schema)
        self._check_sql = _CHECK_WRITABLE.format(schema)

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Append all events or none, in one round trip, together with those of concurrent calls."""
        await self._prepare()
        return await super().publish(events)

    @asynccontextmanager
    async def on_message(self, handler: Handler) -> AsyncIterator[PostgresTail]:
        """Open the tail: one connection that listens, for all subscribers.

        Raises TransportUnavailable if the host is a pooler's.
        """
        if self._listens_pooled:
            raise TransportUnavailable(f"DATABASE_URL: {POOLED_HOST}")
        async with super().on_message(handler) as tail:
            yield tail

    async def ping(self) -> None:
        """Return if Postgres answers, has the schema and takes writes; else raise TransportUnavailable.

        While the database may sleep, the last answer counts: a health check would wake it.
        """
        if not self._sleeping.asleep:
            await self.fetch(self._check_sql)

    @property
    def is_unavailable(self) -> bool:
        """Whether no connection could be opened the last times."""
        return self._pool.is_unavailable

    async def aclose(self) -> None:
        """Close every connection, once an append that is under way has been answered."""
        await self._appends.aclose()
        await super().aclose()
        await self._pool.aclose()

    async def read_heads(self, fetch: Fetch, partitions: Sequence[str]) -> Cursor:
        """Return the heads that `fetch` reads."""
        return await self._fetch_positions(fetch, partitions, None)

    async def read_after(self, fetch: Fetch, positions: Cursor) -> list[NewRecords]:
        """Return the records after these positions, at most a page per partition, in one round trip."""
        names, after = list(positions.positions), positions.positions.values()
        rows = await fetch(self._read_after_sql, names, [at.epoch for at in after], [at.offset for at in after])
        found = []
        for partition, group in groupby(rows, key=lambda row: row[0]):
            page = list(group)
            # A page that was cut for its bytes holds at least an eighth: an event is shorter than that, and a character
            # has at most 4 bytes.
            more = len(page) == PAGE or sum(len(row[5]) for row in page) > TAIL_BYTES // 8
            found.append(NewRecords(partition, parse_rows(page), (page[-1][1], page[-1][2]), more))
        return found

    def evict(self) -> None:
        """Close the pool's idle connections."""
        self._pool.evict()

    async def notify(self, payload: str) -> None:
        """Notify the tails, over a connection of the pool."""
        await self.fetch(_NOTIFY, self._channel, payload)

    async def sweep(self, fetch: Fetch) -> None:
        """Delete old records of partitions to which nothing is published."""
        await fetch(self._sweep_sql, *self._limits)
        await self._writer.announce()  # if only realtime_publish appends, nothing else renews the announcement

    async def fetch(self, sql: str, *arguments: object) -> list[Row]:
        """Run a statement on a connection of the pool; raises TransportUnavailable."""
        await self._prepare()
        return await self._pool.fetch(sql, *arguments)

    async def _prepare(self) -> None:
        if not self._configured:
            if self._configuring is None:
                self._configuring = asyncio.create_task(self._configure())
            await asyncio.shield(self._configuring)

    def _make_tail(self, handler: Handler) -> PostgresTail:
        return PostgresTail(self, self._listen_server, self._channel, handler, self._check, self._sleeping)

    async def _append(self, expected: str, parts: Sequence[Part]) -> tuple[list[Answer], Registry | None]:
        entries = [Entry(p.partition, p.scope, p.event.chained, pack(p.event).decode(), _join(p.others)) for p in parts]
        rows = await self._appends.add(expected, entries)
        if not rows:
            return [None] * len(parts), await self._read_registry()
        answers = [_answer(part, row) for part, row in zip(parts, rows, strict=True)]
        placed = zip(parts, answers, strict=True)
        self._expect({part.partition: answer.position for part, answer in placed if isinstance(answer, Placed)})
        return answers, None

    async def _append_call(self, call: Call) -> list[Row]:
        limits = self._limits
        if call.partitions == [SCHEMES]:
            limits = _limits(FOREVER)
        else:
            self._sleeping.use()
        try:
            return await self._pool.fetch(self._append_sql, *call, *limits)
        except TransportUnavailable as error:
            refused = event_refused(error.__cause__)
            if refused is None:
                raise
            raise refused from error

    async def _read_heads(self, partitions: Sequence[str]) -> Cursor:
        heads = await self._read_positions(partitions, None)
        self._expect(heads.positions)
        return heads

    async def _read_positions(self, partitions: Sequence[str], time: int | None) -> Cursor:
        self._sleeping.use()
        return await self._fetch_positions(self.fetch, partitions, time)

    async def _fetch_positions(self, fetch: Fetch, partitions: Sequence[str], time: int | None) -> Cursor:
        rows = await fetch(self._positions_sql, list(partitions), time)
        return Cursor({row[0]: Position(*row[1:5]) for row in rows})

    def _expect(self, heads: Mapping[str, Position]) -> None:
        for tail in self._tails:
            tail.expect(heads)

    def _refresh_tails(self) -> None:
        for tail in self._tails:
            tail.request_refresh()

    async def _read_registry(self) -> Registry:
        head = (await self._fetch_positions(self._pool.fetch, (SCHEMES,), None)).positions[SCHEMES]
        rows = await self._pool.fetch(self._page_sql, SCHEMES, head.epoch, 0, head.offset)
        announced = [(read_announcement(event), at) for event, _, at in parse_rows(rows)]
        return Registry(head.check, [(one, at.time) for one, at in announced if one and at])

    async def _read_page(self, partition: str, after: Position, until: int) -> list[Record]:
        self._sleeping.use()
        return parse_rows(await self.fetch(self._page_sql, partition, after.epoch, after.offset, until))

    async def _configure(self) -> None:
        """Check the schema, announce the scheme, and store the settings for realtime_publish: once per process.

        Announced first: if the scheme is refused, realtime_publish must not append to partitions that nobody reads.
        """
        scheme = [sorted(self._scheme.types), self._scheme.user_shards]
        try:
            ((version, schemes),) = await self._pool.fetch(self._state_sql)
            if version < SCHEMA_VERSION:
                raise TransportUnavailable(f"The database's schema is older than this code needs; {MIGRATE}")
            if schemes:
                self._writer.registry = await self._read_registry()
            await self._writer.announce()
            ((changed,),) = await self._pool.fetch(self._configure_sql, *scheme, *self._limits)
        finally:
            self._configuring = None
        if changed:
            log.info("realtime_publish uses this process's partitions and retention from now on")
        self._configured = True


def _limits(retention: Retention) -> tuple[int, int, int]:
    return int(retention.age * 1000), retention.events, int(retention.idempotency_window * 1000)


def _join(others: Sequence[tuple[str, str]]) -> str:
    """Return each as the partition, a space and SHA-256 of the scope, which may be longer than an index entry."""
    return ",".join(f"{name} {hashlib.sha256(scope.encode()).hexdigest()}" for name, scope in others)


def _answer(part: Part, row: Row) -> Answer:
    if row[5] is None:
        return Placed(Position(*row[:4]), row[4])
    found = (known.split(" ") for known in row[5].split(","))  # each as `n epoch offset check time`, n from 1
    return {part.others[int(n) - 1]: Position(int(epoch), int(at), check, int(t)) for n, epoch, at, check, t in found}


def parse_rows(rows: Sequence[Row]) -> list[Record]:
    """Return the records of rows; an unreadable row is left out, which makes it a gap."""
    records = []
    for partition, epoch, offset, check, time, event in rows:
        try:
            records.append(Record(unpack(event), partition, Position(epoch, offset, check, time)))
        except (ValueError, RecursionError):
            log.error("partition %s: offset %d of epoch %d is not a record", partition, offset, epoch)  # noqa: TRY400 — the exception may quote event data
    return records
