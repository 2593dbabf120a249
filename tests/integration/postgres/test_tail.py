"""The tail: notifications wake it, and what it delivers is read from the log."""

from collections.abc import Sequence

import pytest
from tidewire.model.partitions import ALL
from tidewire.model.record import Record
from tidewire.transports.log_base import PAGE_BYTES
from tidewire.transports.postgres.connection import Row
from tidewire.transports.postgres.log import TAIL_BYTES, PostgresLog, parse_rows

from tests.contract.acts import place, publish, read, tailing
from tests.contract.stores import PostgresStore
from tests.integration.postgres.conftest import Connect
from tests.support.postgres_server import PostgresServer


async def test_forged_notifications_deliver_and_hide_nothing(
    postgres_store: PostgresStore, application: Connect
) -> None:
    log, stranger = postgres_store.open(), await application()
    async with tailing(log, await log.head((ALL,))) as (received, _):
        (first,) = await publish(log, 1)
        await received.has(1)  # it listens from here on
        epoch = place(first).epoch
        for payload in (
            "",
            "all",
            "all x y",
            "nobody 1 1",
            f"all {epoch} 99",
            f"all {epoch + 1} 1",
            f"all {'9' * 5000} 1",
            '{"type":"t","data":"forged"}',
        ):
            await stranger.fetch("select pg_notify('tidewire:rt', $1)", payload)
        await publish(log, 2)
        await received.has(2)
    assert received.data == [1, 2]


async def test_a_lost_notification_is_found_by_the_next_check(
    postgres_store: PostgresStore, postgres_server: PostgresServer
) -> None:
    log = PostgresLog(postgres_store.url, check=0.1)
    ring = postgres_server.ask("select pg_get_functiondef('rt.append_scoped_to'::regproc)")[0][0]
    async with tailing(log, await log.head((ALL,))) as (received, _):
        await publish(log, 1)
        await received.has(1)
        postgres_server.ask(ring.replace("'tidewire:'", "'elsewhere:'"))  # as behind a pooler
        try:
            for number in range(2, 5):
                await publish(log, number)
                await received.has(number)
        finally:
            postgres_server.ask(ring + ";")
    assert received.data == [1, 2, 3, 4]
    await log.aclose()


@pytest.mark.parametrize("counted_again", [0, 1, 2, 4])
async def test_an_older_state_is_a_gap_at_the_next_check(postgres_store: PostgresStore, counted_again: int) -> None:
    log = PostgresLog(postgres_store.url, check=0.1)
    await publish(log, "a", "b", "c")
    fall_back = await postgres_store.back_up()
    async with tailing(log, await log.head((ALL,))) as (received, _):
        await publish(log, "lost 4", "lost 5")
        await received.has("lost 5")
        await fall_back()
        await publish(log, *(f"other {n}" for n in range(4, 4 + counted_again)))
        await received.has("<epoch>")
        await publish(log, "end")
        await received.has("end")
    # The check may come at any moment: offsets used again before it are part of the gap, later ones follow it.
    others = [f"other {number}" for number in range(4, 4 + counted_again)]
    after = received.data[3:]
    assert received.data[:3] == ["lost 4", "lost 5", "<epoch>"]
    assert after == [*others, "end"][-len(after) :]
    assert len(after) >= len(others[2:]) + 1
    await log.aclose()


async def test_a_backlog_of_mixed_sizes_is_read_in_pieces(
    postgres_store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def count(page: Sequence[Row]) -> list[Record]:
        rows.append(sum(len(row[5].encode()) for row in page))
        return parse_rows(page)

    monkeypatch.setattr("tidewire.transports.postgres.log.parse_rows", count)
    log = postgres_store.open()
    start = await log.head((ALL,))
    for number in range(30):
        await publish(log, *(f"{number}-{part}" for part in range(10)), "ü" * 120_000)
    async with tailing(log, start) as (received, _):
        await received.until(lambda: len(received.items) == 330)
    assert [item.position.offset for item in received.items if item.position] == list(range(1, 331))
    assert max(rows) <= TAIL_BYTES
    rows.clear()
    assert len(await read(log, start)) == 330
    assert max(rows) <= PAGE_BYTES


async def test_an_unreadable_record_is_a_gap_and_later_ones_arrive(
    postgres_store: PostgresStore, application: Connect
) -> None:
    log, connection = postgres_store.open(), await application()
    start = await log.head((ALL,))
    await connection.fetch(
        "select * from rt.append('{all}', '{4}', '{1,2,3,4}', $1, 86400000, 0, 86400000)",
        ['{"id":"1","type":"t","data":1}', "not a record", '{"id":"3","type":"t","data":3}', "nor is this"],
    )
    async with tailing(log, start) as (received, _):
        await received.until(lambda: received.data == [1, "<trimmed>", 3, "<trimmed>"])
        await publish(log, 5)
        await received.has(5)
    assert received.data == [1, "<trimmed>", 3, "<trimmed>", 5]
