"""A real PgBouncer, with and without its mark in the URL: events flow, and the log says what to set."""

import asyncio
from collections.abc import Sequence

import pytest
from tidewire.transports.postgres.log import PostgresLog

from tests.contract.acts import publish as publish_to
from tests.contract.acts import tailing
from tests.integration.postgres.conftest import start as start_instance
from tests.integration.postgres.pooler import MakePooler, PgBouncer, make_pooler, start
from tests.support.clients import Requests, event, follow, get, publish, receipts
from tests.support.postgres_server import PostgresServer
from tests.support.processes import MakeInstance
from tests.support.waiting import eventually

MODES = ("session", "transaction", "statement")
UNHEARD = "does not reach its own LISTEN"

__all__ = ["make_pooler"]


@pytest.fixture(
    params=[
        pytest.param((mode, lenient), marks=[] if lenient == (mode == "transaction") else [pytest.mark.full])
        for mode in MODES
        for lenient in (False, True)
    ],
    ids=str,
)
async def pooler(
    request: pytest.FixtureRequest, make_pooler: MakePooler, postgres_server: PostgresServer, postgres_url: str
) -> tuple[str, PgBouncer]:
    """A pooler in each mode, which accepts session settings or not."""
    mode, lenient = request.param
    return mode, await start(make_pooler, postgres_server.port, mode, lenient=lenient)


async def test_functions_publish_through_a_marked_pooler(pooler: tuple[str, PgBouncer], postgres_url: str) -> None:
    """With ?pgbouncer=true nothing depends on the session, and the tail uses the direct host."""
    _, bouncer = pooler
    log = PostgresLog(f"{bouncer.url}?pgbouncer=true", listen_url=postgres_url)
    async with tailing(log, await log.head(("all",))) as (received, _):
        await asyncio.gather(*(publish_to(log, number, number + 100) for number in range(20)))
        await received.until(lambda: len(received.data) == 40)
    await log.aclose()


async def test_events_flow_and_the_log_says_what_to_set(
    pooler: tuple[str, PgBouncer], make_instance: MakeInstance, postgres_url: str
) -> None:
    """Events came up to 30 s late without a warning, or each publish failed because of prepared statements."""
    mode, bouncer = pooler
    here = await start_instance(make_instance, bouncer.url)
    elsewhere = await start_instance(make_instance, postgres_url)
    names = [f"event-{number}" for number in range(40)]

    async def publish_some(some: Sequence[str]) -> None:
        async with Requests(here) as requests:
            for name in some:
                receipts(await requests.publish(event(name)))

    async with follow(here) as near, follow(elsewhere) as far:
        await asyncio.gather(*(publish_some(names[start::8]) for start in range(8)))
        await near.seen.until(lambda: len(near.names) == len(names))
        await far.seen.until(lambda: len(far.names) == len(names))
        assert near.names == far.names
        assert sorted(near.names) == sorted(names)
        receipts(await publish(elsewhere, event("from-elsewhere")))
        await near.seen.until(lambda: "from-elsewhere" in near.names)
        if mode != "session":
            await eventually(lambda: asyncio.to_thread(lambda: UNHEARD in here.log()))
        health = (await get(here, "/api/health/ready")).json()
        assert health["status"] == "ready"
        assert (UNHEARD in str(health.get("warnings"))) == (mode != "session")
    assert here.log().count(UNHEARD) == (mode != "session")
    assert "answered 503" not in here.log()
    assert UNHEARD not in elsewhere.log()
