"""Postgres does not accept writes any more: what publishers, readers and load balancers get."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.postgres.conftest import start
from tests.support.clients import (
    Requests,
    event,
    eventually_subscribed,
    follow,
    get,
    is_ready,
    publish,
    publish_all,
    read_page,
    receipts,
)
from tests.support.instance_settings import FALLBACK
from tests.support.postgres_server import MakePostgres, PostgresServer
from tests.support.processes import Instance, MakeInstance
from tests.support.proxy import Proxy
from tests.support.waiting import eventually

UNENCRYPTED = "?sslmode=disable"

_TRIGGER = """
    create function rt.full() returns trigger language plpgsql as $$begin raise disk_full; end$$;
    create trigger full_disk before insert on rt.records execute function rt.full()
"""
REFUSALS = {
    "no-right": ("revoke insert on rt.records from app", "grant insert on rt.records to app", "lacks a privilege"),
    "disk-full": (_TRIGGER, "drop trigger full_disk on rt.records", "its disk is full"),
}

Pair = tuple[PostgresServer, PostgresServer]


@pytest.fixture
async def pair(make_postgres: MakePostgres, tmp_path: Path) -> AsyncIterator[Pair]:
    """A primary and its hot standby."""
    primary = await asyncio.to_thread(make_postgres)
    standby = PostgresServer(tmp_path)
    try:
        await asyncio.to_thread(standby.follow, primary)
        await asyncio.to_thread(standby.start)
        yield primary, standby
    finally:
        await asyncio.to_thread(standby.stop)


async def in_step(pair: Pair) -> None:
    """Return once the standby has all data of the primary."""
    primary, standby = pair
    ((at,),) = await asyncio.to_thread(primary.ask, "select pg_current_wal_lsn()::text")

    async def is_there() -> bool:
        question = "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
        return bool((await asyncio.to_thread(standby.ask, question, at))[0][0])

    await eventually(is_there)


async def promote(standby: PostgresServer) -> None:
    """Return once it accepts writes."""
    await asyncio.to_thread(standby.ask, "select pg_promote()")


async def warm_up(instance: Instance, count: int) -> None:
    """Open several pooled connections, and leave them idle."""

    async def read() -> None:
        (await get(instance, "/api/events?from=earliest", {"accept": "application/json"})).json()

    await asyncio.gather(*(publish(instance, event(f"warm-{number}")) for number in range(count)), read(), read())


async def persist(instance: Instance, name: str) -> None:
    """Publish until it is accepted, as a publisher that follows `Retry-After`."""

    async def accepted() -> bool:
        return (await publish(instance, event(name))).status == 202

    await eventually(accepted)


@pytest.mark.parametrize("fallback", [{}, FALLBACK], ids=["plain", "fallback"])
async def test_a_planned_failover_loses_nothing(
    pair: Pair, make_instance: MakeInstance, fallback: dict[str, str]
) -> None:
    """The old primary lives on as read-only, the address leads elsewhere, and the pooled connections stay open.

    Every publish was refused as long as they lived, and a resuming client was served heads of the old server.
    """
    primary, standby = pair
    async with Proxy(f"{primary.url}{UNENCRYPTED}") as wire:
        instance = await start(make_instance, wire.url, **fallback)
        async with follow(instance) as follower:
            await warm_up(instance, 4)
            await follower.seen.until(lambda: len(follower.names) == 4)
            cursor, seen = follower.cursor, list(follower.names)
            await in_step(pair)
            await asyncio.to_thread(primary.set_read_only, True)
            await promote(standby)
            wire.lead_to(standby.port, cut=False)
            names = ["one", "two", "three"]
            async with Requests(instance) as requests:
                for name in names:
                    assert receipts(await requests.publish(event(name)))[0].get("durable", True)
            await follower.has(*seen, *names)
            async with follow(instance, last_event_id=cursor) as again:
                await again.has(*names)
                assert again.order == [*names, "ready"]
        assert await is_ready(instance)


async def test_a_server_that_refuses_writes_is_not_ready(
    make_postgres: MakePostgres, make_instance: MakeInstance
) -> None:
    """Readiness was 200 while each publish was a 503."""
    server = await asyncio.to_thread(make_postgres)
    instance = await start(make_instance, server.url)
    async with follow(instance) as follower:
        await warm_up(instance, 4)
        await asyncio.to_thread(server.set_read_only, True)
        await not_ready(instance, "takes no writes")
        answer = await publish(instance, event("refused"))
        answer.assert_unavailable()
        assert "takes no writes" in answer.json()["detail"]
        await asyncio.to_thread(server.set_read_only, False)
        await persist(instance, "after")
        await follower.seen.until(lambda: "after" in follower.names)
        await eventually(lambda: is_ready(instance))
        assert follower.is_open()


async def test_a_standby_alone_is_not_ready(pair: Pair, make_instance: MakeInstance) -> None:
    """A standby may be behind what was acknowledged, so nothing is read from it."""
    _, standby = pair
    instance = await start(make_instance, standby.url)
    await not_ready(instance, "it is a standby")
    page = await get(instance, "/api/events?from=earliest", {"accept": "application/json"})
    page.assert_unavailable()
    await promote(standby)
    await persist(instance, "after")
    await eventually(lambda: is_ready(instance))


@pytest.mark.parametrize(("refuse", "mend", "why"), REFUSALS.values(), ids=REFUSALS)
async def test_a_store_that_refuses_each_append_is_not_ready(
    make_postgres: MakePostgres, make_instance: MakeInstance, refuse: str, mend: str, why: str
) -> None:
    """A revoked privilege, a full disk: readiness names it until an append succeeds."""
    server = await asyncio.to_thread(make_postgres)

    async def ask(sql: str) -> None:
        await asyncio.to_thread(server.ask, f"{sql}; select 1")

    await ask("create role app login; grant usage on schema rt to app; grant all on all tables in schema rt to app")
    instance = await start(make_instance, server.url.replace("tidewire@", "app@"))
    receipts(await publish(instance, event("before")))
    await ask(refuse)
    answer = await publish(instance, event("refused"))
    answer.assert_unavailable()
    assert why in answer.json()["detail"]
    await not_ready(instance, why)
    await ask(mend)
    receipts(await publish(instance, event("after")))
    assert await is_ready(instance)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["primary-first", "standby-first"])
async def test_several_hosts_are_one_address(pair: Pair, make_instance: MakeInstance, order: tuple[int, int]) -> None:
    """The first host that accepts writes is used, before and after a failover."""
    first, second = (pair[place] for place in order)
    url = first.url.replace("/postgres", f",127.0.0.1:{second.port}/postgres?target_session_attrs=read-write")
    url = url.replace("postgres:,", "postgres:")
    instance = await start(make_instance, url)
    async with follow(instance) as follower:
        await warm_up(instance, 2)
        await in_step(pair)
        await asyncio.to_thread(pair[0].kill)
        await promote(pair[1])
        await persist(instance, "after")
        await follower.seen.until(lambda: "after" in follower.names)
        assert sorted(follower.names) == ["after", "warm-0", "warm-1"]


async def not_ready(instance: Instance, why: str) -> None:
    """Return once readiness is 503 for this reason."""

    async def says_so() -> bool:
        answer = await get(instance, "/api/health/ready")
        return answer.status == 503 and why in answer.json()["detail"]

    await eventually(says_so)


async def test_a_promoted_standby_that_was_behind_is_a_gap(pair: Pair, make_instance: MakeInstance) -> None:
    """Records that the standby had not received are lost: streams, resumes, long polls and pages all get a gap.

    The pages are those of an instance without streams: nothing but the client's cursor is ahead of the log there.
    """
    primary, standby = pair
    kept, lost = ["kept-1", "kept-2"], ["lost-1", "lost-2", "lost-3"]
    async with Proxy(f"{primary.url}{UNENCRYPTED}") as wire:
        streaming, polled = [await start(make_instance, wire.url) for _ in range(2)]
        async with follow(streaming) as live:
            await publish_all(streaming, kept)
            await in_step(pair)
            await cut_off(standby)
            await publish_all(streaming, lost)
            await live.has(*kept, *lost)
            cursor = (await read_page(polled, last_event_id=live.cursor))["cursor"]
            waiting = asyncio.create_task(get_page(polled, cursor, 20))
            await eventually_subscribed(polled, 1)
            await asyncio.to_thread(primary.kill)
            await promote(standby)
            wire.lead_to(standby.port)

            await live.seen.until(lambda: "epoch" in live.seen.gaps)
            await waiting  # it ends with a response, whichever state its connections broke in
            await eventually(lambda: is_ready(polled))
            for wait in (0, 20):
                page = await get_page(polled, cursor, wait)
                assert page["gap"] == {"reason": "epoch", "recovered": False}
                assert [item["data"]["name"] for item in page["events"]] == kept
            await persist(streaming, "after")
            await live.seen.until(lambda: "after" in live.names)
            assert live.order == ["ready", *kept, *lost, "gap: epoch", *kept, "after"]
        async with follow(polled, last_event_id=cursor) as resumed:
            assert resumed.order == ["gap: epoch", *kept, "after", "ready after a loss"]


async def cut_off(standby: PostgresServer) -> None:
    """Return once the standby receives no more records."""
    await asyncio.to_thread(standby.ask, "alter system set primary_conninfo = ''")
    await asyncio.to_thread(standby.ask, "select pg_reload_conf()")

    async def is_alone() -> bool:
        return not await asyncio.to_thread(standby.ask, "select pid from pg_stat_wal_receiver")

    await eventually(is_alone)


async def get_page(instance: Instance, cursor: str, wait: int) -> dict[str, Any]:
    """Request the next page after a cursor until the instance returns one."""
    pages: list[dict[str, Any]] = []

    async def is_answered() -> bool:
        path = f"/api/events?last_event_id={cursor}&wait={wait}"
        answer = await get(instance, path, {"accept": "application/json"})
        if answer.status == 200:
            pages.append(answer.json())
        else:
            answer.assert_unavailable()
        return bool(pages)

    await eventually(is_answered)
    return pages[0]
