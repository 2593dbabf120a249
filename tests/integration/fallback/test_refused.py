"""Events that the log refuses while it accepts others: set aside, counted, and not in the way of later ones."""

import asyncio
from typing import Any

import pytest
from tidewire.errors import EventRefused, TransportUnavailable
from tidewire.model.partitions import Partitions
from tidewire.transports.fallback.fallback import Fallback
from tidewire.transports.fallback.outbox import Entry
from tidewire.transports.upstash.rest_log import UpstashRest

from tests.contract.acts import event as draft
from tests.contract.acts import publish as publish_to
from tests.contract.stores import MemoryStore
from tests.integration.fallback.over_http import back, early
from tests.support.clients import event, follow, get, metrics, publish, receipts
from tests.support.clocks import virtual_time
from tests.support.instance_settings import FALLBACK, on_postgres, on_redis
from tests.support.postgres_server import MakePostgres, PostgresServer
from tests.support.processes import Instance as Process
from tests.support.processes import MakeInstance, MakeRedis
from tests.support.redis_records import read_log
from tests.support.unavailable_log import Instance, ids_in_log
from tests.support.upstash_stand_in import StandIn
from tests.support.waiting import eventually

CONSTRAINT = "alter table rt.records add constraint clean check (event not like '%poison%')"
_RAISE = """
    create function rt.refuse() returns trigger language plpgsql as $$begin raise {}; end$$;
    create trigger clean before insert on rt.records for each row when (new.event like '%poison%')
    execute function rt.refuse()
"""
TRIGGER, NO_RIGHT = _RAISE.format("'no'"), _RAISE.format("insufficient_privilege")
SET_ASIDE = "realtime_outbox_set_aside_total"


def names_in(server: PostgresServer) -> list[str]:
    """Return the ids in the log, in its order."""
    rows = server.ask('select event::json ->> $1 from rt.records order by epoch, "offset"', "id")
    return [name for (name,) in rows]


async def set_aside(instance: Process) -> float:
    """Return the number of events that the instance has set aside."""
    return (await metrics(instance))[SET_ASIDE]


async def has_set_aside(instance: Process, count: int) -> bool:
    """Whether the instance has set aside this number of events."""
    return await set_aside(instance) == count


async def served(instance: Instance, name: str) -> bool:
    """Publish an event, and return whether it is durable; False if the outbox was full."""
    try:
        (receipt,) = await instance.fallback.publish([draft(id=name)])
    except TransportUnavailable:
        await asyncio.sleep(0.1)  # virtual, before the next attempt
        return False
    return receipt.durable


@pytest.mark.parametrize("rule", [CONSTRAINT, TRIGGER, NO_RIGHT], ids=["constraint", "trigger", "no-right"])
async def test_events_behind_a_refused_one_arrive(
    make_postgres: MakePostgres, make_instance: MakeInstance, rule: str
) -> None:
    """A refused event blocked the outbox; later events were lost at the end of the process."""
    server = await asyncio.to_thread(make_postgres)
    await asyncio.to_thread(server.ask, f"{rule}; select 1")
    instance = await asyncio.to_thread(make_instance, **on_postgres(server.url, **FALLBACK))
    async with follow(instance) as follower:
        await asyncio.to_thread(server.kill)
        for name in ("one", "poison-hunter2", "two"):
            await early(instance, name)
        await follower.has("one", "poison-hunter2", "two")
        await asyncio.to_thread(server.start)
        await back(instance)
        assert await set_aside(instance) == 1
        answer = await publish(instance, event("end"))
        assert "durable" not in answer.json()["events"][0]
        await follower.has("one", "poison-hunter2", "two", "end")
        assert (await get(instance, "/api/health/ready")).json()["status"] == "ready"
        refused = await publish(instance, event("poison-direct"))
        if refused.status == 202:  # the error does not name this event, until others are stored
            assert refused.json()["events"][0]["durable"] is False
            await publish(instance, event("behind"))
            await eventually(lambda: has_set_aside(instance, 2))
            refused = await publish(instance, event("poison-again"))
        assert refused.status == 422, refused
        assert "sent again as it is" in refused.json()["detail"]
    assert [name for name in names_in(server) if name != "behind"] == ["one", "two", "end"]
    lines = [line for line in instance.log().splitlines() if "SET ASIDE" in line]
    assert "poison-hunter2" in lines[0]
    assert '"name"' not in instance.log()


async def test_a_log_that_refuses_everything_loses_nothing(
    make_postgres: MakePostgres, make_instance: MakeInstance
) -> None:
    """A missing privilege concerns all events: none is set aside."""
    server = await asyncio.to_thread(make_postgres)

    async def ask(sql: str) -> None:
        await asyncio.to_thread(server.ask, f"{sql}; select 1")

    await ask("create role app login; grant usage on schema rt to app; grant all on all tables in schema rt to app")
    url = server.url.replace("tidewire@", "app@")
    instance = await asyncio.to_thread(make_instance, **on_postgres(url, **FALLBACK))
    await ask("revoke insert on rt.records from app")
    names = [f"event-{number}" for number in range(60)]
    for name in names:
        await early(instance, name)

    async def says_why() -> bool:
        health = (await get(instance, "/api/health/ready")).json()
        assert health["status"] == "degraded"
        return any("42501" in reason for reason in health["reasons"])

    await eventually(says_why)
    await ask("grant insert on rt.records to app")
    await back(instance)
    assert names_in(server) == names
    assert await set_aside(instance) == 0


async def test_a_partition_that_redis_refuses_holds_up_no_other(
    make_redis: MakeRedis, make_instance: MakeInstance
) -> None:
    """A Redis user without permission for one partition: its first event blocked the outbox."""
    # From the start: before a later command, the outbox could append events that must be refused.
    limited = "on nopass resetkeys ~rt:all ~{rt:all}* ~{rt}* ~rt:realtime.* ~{rt:realtime.* &* +@all"
    redis = await asyncio.to_thread(make_redis, options=("--user", "default", *limited.split()))
    settings = {**on_redis(redis, **FALLBACK), "REALTIME_PARTITIONS": "secret"}
    instance = await asyncio.to_thread(make_instance, **settings)
    redis.kill()
    for number in range(20):
        answer = await publish(instance, event(f"secret-{number}", type="secret"))
        assert answer.json()["events"][0]["durable"] is False
        await early(instance, f"open-{number}")
    redis.start()
    await back(instance)
    assert await set_aside(instance) == 20
    for name in ("open-now", "open-too"):
        assert "durable" not in receipts(await publish(instance, event(name)))[0]
    refused = await publish(instance, event("secret-now", type="secret"))
    assert refused.status == 422, refused
    assert "NOPERM" in refused.json()["detail"]
    assert redis.ask("ACL SETUSER default allkeys") == "+OK"
    assert "durable" not in receipts(await publish(instance, event("secret-after", type="secret")))[0]
    logged = await read_log(redis)
    names = [f"open-{number}" for number in range(20)]
    assert [stored.event["id"] for stored in logged["all"]] == [*names, "open-now", "open-too"]
    assert [stored.event["id"] for stored in logged["secret"]] == ["secret-after"]


async def test_an_event_that_is_too_large_for_the_store(upstash: StandIn) -> None:
    """A plan limits the size of a request: a larger event is refused, also from the outbox."""
    rest = UpstashRest(upstash.url, upstash.token, poll_min=0.01, poll_max=0.1)
    fallback = Fallback(rest)
    await publish_to(fallback, "first")
    await asyncio.to_thread(upstash.stop)
    large = "x" * 100_000
    for data in ("before", large, *range(30)):
        (receipt,) = await publish_to(fallback, data)
        assert not receipt.durable
    upstash.most_request_bytes = 50_000
    await asyncio.to_thread(upstash.resume)
    await eventually(lambda: fallback.backlog.events == 0)
    (receipt,) = await publish_to(fallback, "after")
    assert receipt.positions is not None
    assert receipt.positions["all"].offset == 33
    for transport in (fallback, rest):
        with pytest.raises(EventRefused, match="larger than Upstash takes"):
            await publish_to(transport, large)
    await fallback.aclose()


async def test_no_request_fails_for_an_event_of_another(
    make_postgres: MakePostgres, make_instance: MakeInstance
) -> None:
    """Concurrent publishes share one append, which one refused event failed for all."""
    server = await asyncio.to_thread(make_postgres)
    await asyncio.to_thread(server.ask, f"{CONSTRAINT}; select 1")
    instance = await asyncio.to_thread(make_instance, **on_postgres(server.url))
    await publish(instance, event("first"))
    names = ["poison" if number % 5 == 2 else f"event-{number}" for number in range(20)]
    answers = await asyncio.gather(*(publish(instance, event(name)) for name in names))
    for name, answer in zip(names, answers, strict=True):
        assert answer.status == (422 if name == "poison" else 202), answer
    assert (await get(instance, "/api/health/ready")).status == 200


@virtual_time
async def test_a_waiting_publisher_gets_the_error_of_its_event() -> None:
    """While the outbox is emptied, a publisher waits, and gets the result of its event."""
    async with Instance(MemoryStore()) as here:
        here.log.poison.add("bad")
        here.log.leave()
        await publish_to(here.fallback, *range(40))
        here.log.seconds = 0.1
        here.log.is_unavailable = False
        await eventually(lambda: not here.fallback.is_unavailable)
        waiting = asyncio.create_task(here.fallback.publish([draft("bad", id="bad")]))
        with pytest.raises(EventRefused, match="poison"):
            await waiting
        assert here.fallback.backlog.events == 0


@virtual_time
async def test_a_partition_that_is_refused_is_an_error_at_once() -> None:
    """After one refused event, the next of its kind is not accepted with a 202."""
    async with Instance(MemoryStore()) as here:
        here.log.barred |= {"first", "second"}
        (kept,) = await here.fallback.publish([draft(1, id="first")])
        assert not kept.durable
        await publish_to(here.fallback, "good")
        await eventually(lambda: here.fallback.backlog.events == 0)
        with pytest.raises(EventRefused):
            await here.fallback.publish([draft(2, id="second")])


@pytest.mark.parametrize("bound", ["events", "bytes"])
@virtual_time
async def test_an_outbox_full_of_refused_events_serves_others(bound: str, caplog: pytest.LogCaptureFixture) -> None:
    """A full outbox accepted no event that could show that the log accepts others: it stayed full."""
    store = MemoryStore()
    names = [f"barred {number}" for number in range(4)]
    size = Entry(draft(id=names[0], type="a"), [("a", names[0])]).size
    limits: dict[str, Any] = {"max_events": len(names)} if bound == "events" else {"max_bytes": len(names) * size}
    async with Instance(store, Partitions(frozenset({"a"})), **limits) as here:
        here.log.barred |= set(names)
        for name in names:
            (kept,) = await here.fallback.publish([draft(id=name, type="a")])
            assert not kept.durable
        await eventually(lambda: here.log.batches.count([names[0]]) >= 2)  # the first attempt is the publisher's
        served = await here.fallback.publish([draft(id="good"), draft(id="good too")])
        assert all(receipt.durable for receipt in served)
        for number in range(len(names)):
            await here.fallback.publish([draft(id=f"good {number}")])
        await eventually(lambda: here.fallback.backlog.events == 0)
        assert not here.fallback.is_unavailable
        logged = await ids_in_log(store)
    assert logged == ["good", "good too", *(f"good {number}" for number in range(len(names)))]
    lines = [record.message for record in caplog.records if "SET ASIDE" in record.message]
    assert [name for name in names if any(name in line for line in lines)] == names
    assert len(lines) == len(names)


@virtual_time
async def test_a_full_outbox_of_one_partition_is_emptied_too(caplog: pytest.LogCaptureFixture) -> None:
    """Events that the log accepts wait until all others of the same partition were tried."""
    names = [f"barred {number}" for number in range(4)]
    async with Instance(MemoryStore(), max_events=len(names)) as here:
        here.log.barred |= set(names)
        for name in names:
            await here.fallback.publish([draft(id=name)])
        tries = 1
        while not await served(here, "good"):
            assert here.fallback.backlog.events == len(names)
            tries += 1
            assert tries < 100
        await eventually(lambda: here.fallback.backlog.events == 0)
    assert sum("SET ASIDE" in record.message for record in caplog.records) == len(names)


@virtual_time
async def test_a_full_outbox_keeps_all_if_nothing_is_accepted() -> None:
    """An event that is tried above the bounds and refused is a 503, and leaves nothing in the outbox."""
    store = MemoryStore()
    async with Instance(store, Partitions(frozenset({"a"})), max_events=3) as here:
        here.log.bars_all = True
        for number in range(3):
            await here.fallback.publish([draft(id=f"{number}", type="a")])
        for number in range(20):
            name = f"refused {number}"
            tries = (draft(id=name), draft(id=f"{name} too"))
            answers = await asyncio.gather(
                here.fallback.publish(tries), here.fallback.publish(tries), return_exceptions=True
            )
            assert [type(answer) for answer in answers] == [TransportUnavailable] * 2
            assert here.fallback.backlog.events == 3
        (again,) = await here.fallback.publish([draft(id="0", type="a")])
        assert again.duplicate
        assert not again.durable
        here.log.bars_all = False
        await eventually(lambda: here.fallback.backlog.events == 0)
        assert here.fallback.backlog.bytes == 0
        assert await ids_in_log(store, "a") == ["0", "1", "2"]
        assert await ids_in_log(store) == []


@virtual_time
async def test_nothing_overtakes_an_event_of_several_shards() -> None:
    """An event that was skipped for a refused one in one shard was overtaken in its other shard."""
    scheme = Partitions(frozenset({"a"}), user_shards=2)
    shards = {user: scheme.route(draft(type="a", users=[user]))[0][0] for user in ("u1", "u2", "u3", "u4")}
    one = next(iter(shards))
    other = next(user for user, shard in shards.items() if shard != shards[one])
    store = MemoryStore()
    async with Instance(store, scheme) as here:
        here.log.leave()
        for name, users in (("barred", [one]), ("both", [one, other]), ("last", [other])):
            await here.fallback.publish([draft(id=name, type="a", users=users)])
        here.log.barred.add("barred")
        here.log.come_back()
        await eventually(lambda: here.fallback.backlog.events == 0)
    assert await ids_in_log(store, shards[other]) == ["both", "last"]
    assert await ids_in_log(store, shards[one]) == ["both"]


@virtual_time
async def test_a_refusal_that_becomes_final_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The event had left the outbox, and a second attempt in the same round ended the flush."""
    async with Instance(MemoryStore()) as here:
        here.log.barred |= {"first", "second"}
        await here.fallback.publish([draft(id="first")])
        await here.fallback.publish([draft(id="second")])
        await eventually(lambda: here.log.batches.count(["second"]) >= 1)
        here.log.poison.add("first")
        await eventually(lambda: here.fallback.backlog.events == 1)
        await here.fallback.publish([draft(id="good")])
        await eventually(lambda: here.fallback.backlog.events == 0)
    lines = [record.message for record in caplog.records if "SET ASIDE" in record.message]
    assert ["first" in lines[0], "second" in lines[1], len(lines)] == [True, True, 2]


@virtual_time
async def test_a_retry_that_waits_does_not_hide_a_loss(caplog: pytest.LogCaptureFixture) -> None:
    """The first publisher got a 202; its event was dropped without a log line when a second publisher waited for it."""
    async with Instance(MemoryStore(), Partitions(frozenset({"a"})), max_events=2) as here:
        here.log.barred |= {"first", "second"}
        for name in ("first", "second"):
            await here.fallback.publish([draft(id=name, type="a")])
        await eventually(lambda: here.log.batches.count(["first"]) >= 2)
        good, again = await asyncio.gather(
            here.fallback.publish([draft(id="good")]),
            here.fallback.publish([draft(id="first", type="a")]),
            return_exceptions=True,
        )
        assert not isinstance(good, BaseException)
        assert good[0].durable
        assert isinstance(again, EventRefused)
        assert any("SET ASIDE: the event first" in record.message for record in caplog.records)
