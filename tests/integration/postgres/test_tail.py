"""The listening connection: what it costs, what is believed of what it hears, and how it is lost and found again."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence

import pytest
from tidewire.delivery.hub import Hub
from tidewire.errors import TransportUnavailable
from tidewire.model.event import Event
from tidewire.model.partitions import ALL, Partitions
from tidewire.model.record import Record
from tidewire.transports.base import Receipt, Transport
from tidewire.transports.log_base import PAGE_BYTES
from tidewire.transports.postgres.connection import Row
from tidewire.transports.postgres.log import TAIL_BYTES, PostgresLog, parse_rows

from tests.contract.acts import Heard, event, events, head, place, publish, read, tailing
from tests.contract.stores import PostgresStore
from tests.integration.postgres.conftest import Connect
from tests.integration.postgres.patience import comes_true
from tests.support.postgres_server import LISTENS, MakePostgres, PostgresServer
from tests.support.proxy import Proxy
from tests.support.sinks import subscribed

UNENCRYPTED = "?sslmode=disable"  # or a question about it would be the first round trip
RECOVERS = 5.0  # seconds in which the tail is back, however it was lost: the longest pause between two tries


async def persist(transport: Transport, one: Event) -> Receipt:
    """Publish as a careful publisher does: the same id again until it is acknowledged."""
    while True:
        try:
            return (await transport.publish([one]))[0]
        except TransportUnavailable:
            await asyncio.sleep(0.02)


async def test_doorbells_of_strangers_deliver_nothing_and_hide_nothing(
    store: PostgresStore, application: Connect
) -> None:
    log, stranger = store.open(), await application()
    async with tailing(log, await log.head((ALL,))) as (heard, _):
        (first,) = await publish(log, 1)
        await heard.has(1)  # from here on it listens
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
        await heard.has(2)
    assert heard.told == [1, 2]


async def test_a_lost_notification_is_found_by_the_next_check(
    store: PostgresStore, postgres_server: PostgresServer
) -> None:
    log = PostgresLog(store.url, check=0.1)
    ring = postgres_server.ask("select pg_get_functiondef('rt.append_scoped_to'::regproc)")[0][0]
    async with tailing(log, await log.head((ALL,))) as (heard, _):
        await publish(log, 1)
        await heard.has(1)
        postgres_server.ask(ring.replace("'tidewire:'", "'elsewhere:'"))  # as behind a pooler
        try:
            for number in range(2, 5):
                await publish(log, number)
                await heard.has(number)
        finally:
            postgres_server.ask(ring + ";")
    assert heard.told == [1, 2, 3, 4]
    await log.aclose()


async def test_all_subscribers_share_one_listening_connection(
    store: PostgresStore, postgres_server: PostgresServer
) -> None:
    scheme = Partitions(frozenset({"a", "b"}), 3)
    async with Hub(store.open(scheme), scheme) as hub, asyncio.TaskGroup() as tasks:

        async def follow(number: int) -> None:
            async with subscribed(hub, f"u{number}", [{"a"}, {"b"}, {"c"}][number % 3]) as sink:
                await sink.has("end")

        for number in range(60):
            tasks.create_task(follow(number))

        async def all_are_live() -> bool:
            return len(hub.subscribers) == 60 and all(subscriber.live for subscriber in hub.subscribers)

        await comes_true(all_are_live)
        assert len(await asyncio.to_thread(postgres_server.listeners)) == 1
        assert len(postgres_server.backends("application_name = 'tidewire'")) <= 4
        await hub.dispatch([event("end", type=type) for type in "abc"])


@pytest.mark.parametrize("size", [1, 100])
async def test_publishing_an_event_or_a_batch_is_one_round_trip(store: PostgresStore, size: int) -> None:
    async with Proxy(f"{store.url}{UNENCRYPTED}") as wire:
        log = PostgresLog(wire.url, partitions=Partitions(frozenset({"a"}), 4))
        users = ["u1", "u2", "u3", "u4", "u5"]
        for _ in range(2):  # the first ones connect, and prepare the statement
            await publish(log, 0)
        before = wire.turns
        await log.publish([event(n, type="ab"[n % 2], users=users if n % 3 else None) for n in range(size)])
        assert wire.turns == before + 1
        await log.head((ALL,))
        before = wire.turns
        await log.head(("all", "a", "a:u1"))
        assert wire.turns == before + 1
        await log.aclose()


async def test_a_notified_event_costs_one_round_trip(store: PostgresStore) -> None:
    publisher = store.open()
    async with Proxy(f"{store.url}{UNENCRYPTED}") as wire:
        log = PostgresLog(wire.url)
        async with tailing(log, await log.head((ALL,))) as (heard, _):
            for number in range(3):
                await publish(publisher, number)
                await heard.has(number)
            before = wire.turns
            await publisher.publish(events(range(10, 20)))
            await heard.has(19)
            assert wire.turns == before + 1
        await log.aclose()


async def test_without_subscribers_the_database_may_sleep(
    store: PostgresStore, postgres_server: PostgresServer
) -> None:
    log = PostgresLog(store.url, check=0.05)
    async with tailing(log, await log.head((ALL,))) as (heard, tail):
        await asyncio.to_thread(postgres_server.listeners)
        tail.unfollow((ALL,))

        async def nobody_listens() -> bool:
            return not await asyncio.to_thread(postgres_server.backends, LISTENS)

        await comes_true(nobody_listens)
        before = await log.head((ALL,))
        await publish(log, 1)
        tail.follow(before.positions)
        await heard.has(1)
    await log.aclose()


@pytest.mark.parametrize(
    "url", ["postgres://u:hunter2@ep-1-pooler.neon.tech/d", "postgres://u:hunter2@h/d?pgbouncer=true"]
)
async def test_a_poolers_host_is_refused_for_streams(url: str) -> None:
    """The error holds no password."""
    async with Hub(PostgresLog(url)) as hub:
        with pytest.raises(TransportUnavailable, match="behind which a LISTEN ends") as caught:
            async with hub.transport.on_message(Heard()):
                pass
    assert "hunter2" not in str(caught.value)
    assert "neon.tech" not in str(caught.value)


async def test_publishing_uses_the_pooler_and_the_tail_does_not(store: PostgresStore) -> None:
    pooled = f"{store.url}?pgbouncer=true&channel_binding=require&connect_timeout=3"
    log = PostgresLog(pooled, listen_url=store.url)
    async with tailing(log, await log.head((ALL,))) as (heard, _):
        await publish(log, *range(5), batch=2)
        await heard.has(4)
    assert heard.told == [0, 1, 2, 3, 4]
    await log.aclose()


async def test_a_terminated_listening_connection_is_replaced(
    store: PostgresStore, postgres_server: PostgresServer
) -> None:
    """Nothing is missed."""
    log = store.open()
    slowest = 0.0
    async with tailing(log, await log.head((ALL,))) as (heard, _):
        for number in range(10):
            (listener,) = await asyncio.to_thread(postgres_server.listeners)
            postgres_server.ask("select pg_terminate_backend($1)", listener)
            began = time.monotonic()
            await publish(log, number)
            await heard.has(number)
            slowest = max(slowest, time.monotonic() - began)
    assert heard.told == list(range(10))
    assert slowest < RECOVERS


async def test_a_hanging_listening_session_is_replaced(
    store: PostgresStore,
    postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tidewire.transports.postgres.connection.TIMEOUT", 1.5)
    log = PostgresLog(store.url, check=0.3)
    async with tailing(log, await log.head((ALL,))) as (heard, _):
        await publish(log, 0)
        await heard.has(0)
        (listener,) = await asyncio.to_thread(postgres_server.listeners)
        os.kill(listener, signal.SIGSTOP)
        try:
            began = time.monotonic()
            await publish(log, 1)
            await heard.has(1)
            assert time.monotonic() - began < RECOVERS
        finally:
            os.kill(listener, signal.SIGCONT)
    assert heard.told == [0, 1]
    await log.aclose()


async def test_a_half_open_listening_connection_is_replaced(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidewire.transports.postgres.connection.TIMEOUT", 1.5)
    publisher = store.open()
    async with Proxy(f"{store.url}{UNENCRYPTED}") as wire:
        log = PostgresLog(store.url, listen_url=wire.url, check=0.3)
        async with tailing(log, await log.head((ALL,))) as (heard, _):
            for number in range(3):
                await publish(publisher, number)
                await heard.has(number)
                await wire.freeze()
            await publish(publisher, "end")
            await heard.has("end")
        assert heard.told == [0, 1, 2, "end"]
        await log.aclose()


async def test_the_tail_polls_while_no_connection_can_listen(
    store: PostgresStore, postgres_server: PostgresServer
) -> None:
    """It is running meanwhile."""
    publisher = store.open()
    async with Proxy(f"{store.url}{UNENCRYPTED}") as wire:
        await wire.refuse()
        log = PostgresLog(store.url, listen_url=wire.url)
        async with tailing(log, await log.head((ALL,))) as (heard, tail):
            for number in range(3):
                await publish(publisher, number)
                await heard.has(number)
            assert tail.running
            await wire.connect()
            await asyncio.to_thread(postgres_server.listeners)
            await publish(publisher, "end")
            await heard.has("end")
            assert tail.running
        assert heard.told == [0, 1, 2, "end"]
        await log.aclose()


async def test_a_retry_after_a_lost_commit_answer_is_a_duplicate(
    store: PostgresStore,
) -> None:
    async with Proxy(f"{store.url}{UNENCRYPTED}") as wire:
        log = PostgresLog(wire.url)
        await publish(log, 1)
        wire.keep = 0
        one = event("same")
        with pytest.raises(TransportUnavailable):
            await log.publish([one])
        wire.keep = None
        assert (await persist(log, one)).duplicate
        assert (await head(log)).offset == 2
        await log.aclose()


async def test_a_dead_idle_connection_fails_no_publish(store: PostgresStore, postgres_server: PostgresServer) -> None:
    async with Proxy(f"{store.url}{UNENCRYPTED}") as wire:
        log = PostgresLog(wire.url)
        for number in range(5):
            await publish(log, number)
            if number % 2:
                wire.cut()
            else:
                postgres_server.ask(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'tidewire'"
                )
        assert (await head(log)).offset == 5
        await log.aclose()


async def test_everything_fails_fast_while_postgres_is_away(
    make_postgres: MakePostgres,
) -> None:
    server = await asyncio.to_thread(make_postgres)
    log = PostgresLog(server.url.replace("tidewire@", "tidewire:hunter2@"))
    await asyncio.to_thread(server.kill)
    for attempt in (lambda: publish(log, 1), lambda: log.head((ALL,)), lambda: log.seek((ALL,), None), log.ping):
        with pytest.raises(TransportUnavailable) as caught:
            async with asyncio.timeout(1.0):
                await attempt()
        assert "hunter2" not in str(caught.value)
        assert "127.0.0.1" not in str(caught.value)
    server.start()
    await persist(log, event("accepted"))
    assert (await head(log)).offset == 1
    await log.aclose()


@pytest.mark.parametrize("fault", ["restart", "crash", "kill a session", "freeze"])
async def test_server_faults_lose_and_reorder_nothing_acknowledged(make_postgres: MakePostgres, fault: str) -> None:
    server = await asyncio.to_thread(make_postgres)
    log, publisher = PostgresLog(server.url), PostgresLog(server.url)

    def strike() -> None:
        if fault == "restart":
            server.restart()
        elif fault == "crash":
            server.kill()
            server.start()
        elif fault == "kill a session":  # the postmaster ends all others too, and recovers
            os.kill(server.backends("application_name = 'tidewire'")[0], signal.SIGKILL)
        else:
            server.pause()
            time.sleep(1.0)
            server.resume()

    async with Hub(log) as hub, subscribed(hub) as sink:
        await sink.ready()
        struck = asyncio.Event()

        async def publish_all() -> None:
            for number in range(300):
                await persist(publisher, event(number))
                if number == 200:
                    await struck.wait()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish_all())
            for number in (50, 120):
                await sink.has(number)
                await asyncio.to_thread(strike)
            over = time.monotonic()
            struck.set()
            await sink.has(201)
            recovered = time.monotonic()
        await sink.has(299)
    assert recovered - over < RECOVERS
    assert sink.data == list(range(300))
    assert sink.gaps == []
    await publisher.aclose()


async def test_a_tail_started_during_an_outage_receives_later(store: PostgresStore) -> None:
    publisher = store.open()
    async with Proxy(f"{store.url}{UNENCRYPTED}") as wire:
        log = PostgresLog(wire.url)
        before = await log.head((ALL,))
        await wire.refuse()
        async with tailing(log, before) as (heard, tail):
            await publish(publisher, 1)
            assert not tail.running
            await wire.connect()
            await heard.has(1)
            await publish(publisher, 2)
            await heard.has(2)
        assert heard.told == [1, 2]
        await log.aclose()


@pytest.mark.parametrize("counted_again", [0, 1, 2, 4])
async def test_a_fallen_back_store_is_a_gap_at_the_next_check(store: PostgresStore, counted_again: int) -> None:
    log = PostgresLog(store.url, check=0.1)
    await publish(log, "a", "b", "c")
    fall_back = await store.back_up()
    async with tailing(log, await log.head((ALL,))) as (heard, _):
        await publish(log, "lost 4", "lost 5")
        await heard.has("lost 5")
        await fall_back()
        await publish(log, *(f"other {n}" for n in range(4, 4 + counted_again)))
        await heard.has("<epoch>")
        await publish(log, "end")
        await heard.has("end")
    # The look may come at any moment: what was counted again by then is part of the gap, the rest comes after it.
    others = [f"other {number}" for number in range(4, 4 + counted_again)]
    told = heard.told[3:]
    assert heard.told[:3] == ["lost 4", "lost 5", "<epoch>"]
    assert told == [*others, "end"][-len(told) :]
    assert len(told) >= len(others[2:]) + 1
    await log.aclose()


async def test_a_backlog_of_mixed_sizes_is_read_in_pieces(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def count(page: Sequence[Row]) -> list[Record]:
        rows.append(sum(len(row[5].encode()) for row in page))
        return parse_rows(page)

    monkeypatch.setattr("tidewire.transports.postgres.log.parse_rows", count)
    log = store.open()
    start = await log.head((ALL,))
    for number in range(30):
        await publish(log, *(f"{number}-{part}" for part in range(10)), "ü" * 120_000)
    async with tailing(log, start) as (heard, _):
        await heard.until(lambda: len(heard.items) == 330)
    assert [item.position.offset for item in heard.items if item.position] == list(range(1, 331))
    assert max(rows) <= TAIL_BYTES
    rows.clear()
    assert len(await read(log, start)) == 330
    assert max(rows) <= PAGE_BYTES


async def test_an_unreadable_record_is_a_gap_and_those_after_it_arrive(
    store: PostgresStore, application: Connect
) -> None:
    log, connection = store.open(), await application()
    start = await log.head((ALL,))
    await connection.fetch(
        "select * from rt.append('{all}', '{4}', '{1,2,3,4}', $1, 86400000, 0, 86400000)",
        ['{"id":"1","type":"t","data":1}', "not a record", '{"id":"3","type":"t","data":3}', "nor is this"],
    )
    async with tailing(log, start) as (heard, _):
        await heard.until(lambda: heard.told == [1, "<trimmed>", 3, "<trimmed>"])
        await publish(log, 5)
        await heard.has(5)
    assert heard.told == [1, "<trimmed>", 3, "<trimmed>", 5]
