"""realtime_publish uses the partition scheme that another process has set or announced."""

import pytest
from tidewire.delivery.hub import Hub
from tidewire.errors import TransportUnavailable
from tidewire.model.partitions import MAX_COPIES, SCHEMES, Partitions

from tests.contract.acts import event
from tests.contract.stores import PostgresStore
from tests.integration.postgres.conftest import Connect
from tests.support.sinks import subscribed

PUBLISH = "select * from realtime_publish($1, $2, $3, $4)"
NONE, EIGHT, SIXTEEN = Partitions(), Partitions(user_shards=8), Partitions(frozenset({"a"}), 16)


async def seen_by(postgres_store: PostgresStore, scheme: Partitions, user: str | None) -> list[object]:
    """Return the events for a user, as a process with this scheme reads them."""
    async with Hub(postgres_store.open(scheme), scheme) as hub, subscribed(hub, user, since="earliest") as sink:
        await sink.ready()
    return list(sink.data)


@pytest.mark.parametrize(("old", "new"), [(NONE, EIGHT), (EIGHT, SIXTEEN), (SIXTEEN, NONE)], ids=["on", "more", "off"])
async def test_a_retry_from_sql_across_a_change_is_a_duplicate(
    postgres_store: PostgresStore, application: Connect, old: Partitions, new: Partitions
) -> None:
    connection = await application()
    await postgres_store.open(old).publish([event("first", id="h", type="a", users=["u1", "u2", "u3"])])
    rows = await connection.fetch(PUBLISH, "a", '"by sql"', ["u1", "u2"], "s")
    assert [row["duplicate"] for row in rows] == [False] * len(rows)
    log = postgres_store.open(new)
    (by_http,) = await log.publish([event("by sql", id="s", type="a", users=["u1", "u2"])])
    assert by_http.duplicate
    await log.publish([event("new")])
    rows = await connection.fetch(PUBLISH, "a", '"first"', ["u1", "u2", "u3"], "h")
    assert rows
    assert all(row["duplicate"] for row in rows)
    assert await seen_by(postgres_store, old, "u1") == ["first", "by sql", "new"]
    assert await seen_by(postgres_store, new, "u3") == ["first", "new"]


async def test_sql_alone_announces_the_scheme_that_it_uses(postgres_store: PostgresStore, application: Connect) -> None:
    """A process that only serves streams sets the scheme of SQL publishers; other processes must detect it."""
    connection = await application()
    async with Hub(postgres_store.open(NONE)) as hub, subscribed(hub, "u1") as sink:
        await sink.ready()
        await postgres_store.open(SIXTEEN).ping()
        await connection.execute(PUBLISH.replace("$1, $2, $3, $4", """'a', '"there"', array['u1'], null"""))
        await sink.until(lambda: sink.ended)
        async with subscribed(hub, "u1", cursor=sink.cursor) as again:
            await again.ready()
    assert again.data == ["there"]


async def test_sql_never_uses_a_refused_scheme(postgres_store: PostgresStore, application: Connect) -> None:
    """It was set before it was refused: SQL appended to partitions that no process reads."""
    connection = await application()
    old, new = (Partitions(frozenset(f"{n}-{letter * 45}" for letter in "abcdefghijklmnop"), 8) for n in range(2))
    await postgres_store.open(old).publish([event("first", users=["u1"])])
    with pytest.raises(TransportUnavailable, match="REALTIME_PARTITIONS"):
        await postgres_store.open(new).publish([event("refused")])
    type = min(new.types)
    await connection.fetch(PUBLISH, type, '"by sql"', ["u1"], None)
    assert await seen_by(postgres_store, old, "u1") == ["first", "by sql"]


async def test_an_id_counts_within_its_type(postgres_store: PostgresStore, application: Connect) -> None:
    connection = await application()
    for type in ("task-done", "order-paid"):
        (row,) = await connection.fetch(PUBLISH, type, "1", None, "order-1047-paid")
        assert not row["duplicate"]
    (receipt,) = await postgres_store.open().publish([event(1, id="order-1047-paid", type="order-paid")])
    assert receipt.duplicate


async def test_an_audience_of_many_shards_is_stored_once(postgres_store: PostgresStore, application: Connect) -> None:
    scheme = Partitions(user_shards=64)
    await postgres_store.open(scheme).ping()
    connection = await application()
    users = [f"u{n}" for n in range(1_000)]
    (row,) = await connection.fetch(PUBLISH, "t", '"wide"', users, None)
    assert row["partition"] == "all"
    few = users[:MAX_COPIES]
    assert 1 < len(await connection.fetch(PUBLISH, "t", '"few"', few, None)) <= MAX_COPIES
    assert await seen_by(postgres_store, scheme, "u3") == ["wide", "few"]
    assert await seen_by(postgres_store, scheme, "u999") == ["wide"]
    assert await seen_by(postgres_store, scheme, None) == []


async def test_sweeping_an_idle_log_keeps_the_schemes(postgres_store: PostgresStore, application: Connect) -> None:
    await postgres_store.open(EIGHT).publish([event("x", users=["u1"])])
    connection = await application()
    await connection.execute("update rt.records set time = time - 100000; select rt.sweep(1, 0, 1)")
    assert await connection.fetchval("select count(*) from rt.records where partition = 'all'") == 0
    assert await connection.fetchval("select count(*) from rt.records where partition = $1", SCHEMES) == 2
