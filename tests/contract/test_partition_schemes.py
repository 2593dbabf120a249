"""Partitions per type and user shard: each user gets the same events as without, from fewer partitions."""

import json
from contextlib import AsyncExitStack

import pytest
from tidewire.delivery.hub import Hub
from tidewire.model.cursor import Cursor
from tidewire.model.event import Event
from tidewire.model.partitions import ALL, SCHEMES, Partitions
from tidewire.model.record import Record

from tests.contract.acts import at, contents, event, publish, read
from tests.contract.stores import LogStore
from tests.support.sinks import subscribed

NONE = Partitions()
TYPES = Partitions(frozenset({"a", "b"}))
SHARDS = Partitions(user_shards=2)
BOTH = Partitions(frozenset({"a"}), user_shards=3)

schemes = pytest.mark.parametrize("scheme", [NONE, TYPES, SHARDS, BOTH], ids=["none", "types", "shards", "both"])


def shard(scheme: Partitions, user: str, type: str = "t") -> str:
    """Return the partition of events for this user."""
    ((name, _),) = scheme.route(event(type=type, users=[user]))
    return name


def users_of_shards(scheme: Partitions) -> tuple[str, str, str]:
    """Return two users in one shard, and one in another."""
    users = [f"u{n}" for n in range(50)]
    one = users[0]
    same = next(u for u in users[1:] if shard(scheme, u) == shard(scheme, one))
    other = next(u for u in users[1:] if shard(scheme, u) != shard(scheme, one))
    return one, same, other


@schemes
async def test_a_scheme_does_not_change_what_is_delivered(store: LogStore, scheme: Partitions) -> None:
    batch = [
        event(f"{n} {type} {users}", type=type, users=users)
        for n in range(4)
        for type in ("a", "b", "c")
        for users in (None, ["u1"], ["u2", "u3"], ["u1", "u2", "u3", "u4"])
    ]
    who = [(user, types) for user in (None, "u1", "u3", "u9") for types in (None, {"a"}, {"b", "c"})]
    async with Hub(store.open(scheme), scheme) as hub:
        async with AsyncExitStack() as stack:
            live = [await stack.enter_async_context(subscribed(hub, *w)) for w in who]
            first = [(await sink.ready(), sink.cursor)[1] for sink in live]
            await hub.dispatch(batch)
            for (user, types), sink in zip(who, live, strict=True):
                wanted = _visible(batch, user, types)
                await sink.received(len(wanted))
        for (user, types), cursor, sink in zip(who, first, live, strict=True):
            async with subscribed(hub, user, types, cursor=cursor) as again:
                assert (await again.ready())["recovered"] is True
            wanted = _visible(batch, user, types)
            assert sorted(sink.data) == sorted(again.data) == sorted(wanted)
            for names in (None, ["u1"]):  # in order per partition: events of one type and audience
                for type in ("a", "b", "c"):
                    part = [d for d in wanted if d.split(" ", 1)[1] == f"{type} {names}"]
                    assert [d for d in sink.data if d in part] == part
                    assert [d for d in again.data if d in part] == part


def _visible(batch: list[Event], user: str | None, types: set[str] | None) -> list[str]:
    found = []
    for one in batch:
        if types is not None and one.type not in types:
            continue
        if one.user_ids is None or user in one.user_ids:
            found.append(json.loads(one.data))
    return found


async def test_a_shard_holds_and_names_its_own_users_only(
    store: LogStore,
) -> None:
    one, same, other = users_of_shards(SHARDS)
    log = store.open(SHARDS)
    names = ("all", shard(SHARDS, one), shard(SHARDS, other))
    before = await log.head(names)
    (receipt,) = await log.publish([event("for all three", users=[one, same, other])])
    await log.publish([event("for everyone")])

    assert receipt.positions is not None
    assert set(receipt.positions) == set(names[1:])
    audiences = {}
    for name in names:
        for item in await read(log, at(before.positions[name], name)):
            assert isinstance(item, Record)
            audiences[name] = item.event.user_ids
    assert audiences == {names[0]: None, names[1]: (one, same), names[2]: (other,)}


async def test_users_of_one_shard_do_not_get_each_others_events(store: LogStore) -> None:
    one, same, _ = users_of_shards(SHARDS)
    async with Hub(store.open(SHARDS), SHARDS) as hub:
        async with subscribed(hub, same) as sink:
            await sink.ready()
            await hub.dispatch([event("secret", users=[one])])
            await hub.dispatch([event("mine", users=[same])])
            await sink.has("mine")
        async with subscribed(hub, same, since="earliest") as replayed:
            await replayed.ready()
    assert sink.data == replayed.data == ["mine"]


async def test_an_id_is_checked_in_every_partition_of_its_event(store: LogStore) -> None:
    one, same, other = users_of_shards(SHARDS)
    log = store.open(SHARDS)
    (first,) = await log.publish([event("x", id="same", users=[one, other])])
    (again,) = await log.publish([event("x", id="same", users=[one, other])])
    assert (first.duplicate, again.duplicate) == (False, True)
    assert again.positions == first.positions
    (wider,) = await log.publish([event("x", id="same", users=[same, other])])
    assert wider.duplicate


ONLY_A = {"a", ALL, SCHEMES}  # in a new log, another process may have used the default scheme


async def test_a_hub_reads_only_the_partitions_of_its_subscribers(
    store: LogStore,
) -> None:
    async with Hub(store.open(TYPES), TYPES) as hub:
        async with subscribed(hub, types={"a"}) as only_a:
            await only_a.ready()
            assert set(hub.fanout.positions) == ONLY_A
            async with subscribed(hub) as everything:
                await everything.ready()
                assert set(hub.fanout.positions) == ONLY_A | {"b"}
                await hub.dispatch([event(1, type="a"), event(2, type="b"), event(3, type="c")])
                await everything.until(lambda: sorted(everything.data) == [1, 2, 3])
            assert set(hub.fanout.positions) == ONLY_A
            await hub.dispatch([event(4, type="b"), event("end", type="a")])
            await only_a.has("end")
        assert hub.fanout.positions == {}
    assert only_a.data == [1, "end"]


@pytest.mark.parametrize(
    ("old", "new"),
    [(NONE, TYPES), (NONE, SHARDS), (TYPES, NONE), (TYPES, BOTH), (SHARDS, BOTH)],
    ids=["to-types", "to-shards", "from-types", "types-to-both", "shards-to-both"],
)
async def test_a_cursor_of_the_previous_scheme_misses_nothing(
    store: LogStore, old: Partitions, new: Partitions
) -> None:
    async with Hub(store.open(old), old) as before, subscribed(before, "u1") as sink:
        await sink.ready()
        for type in ("a", "b", "c"):
            await before.dispatch([event(f"seen {type}", type=type)])
            await before.dispatch([event(f"seen {type} u1", type=type, users=["u1"])])
        await sink.received(6)
    await store.pass_time(0.005)
    async with Hub(store.open(new), new) as after:
        missed = [event(f"{type} {users}", type=type, users=users) for type in "abc" for users in (None, ["u1"])]
        await after.dispatch(missed)
        async with subscribed(after, "u1", cursor=sink.cursor) as again:
            assert (await again.ready())["recovered"] is True
        async with subscribed(after, "u1", cursor=again.cursor) as third:
            assert await third.ready() == {"recovered": True, "replayed": 0}
    assert sorted(again.data) == sorted(f"{type} {u}" for type in "abc" for u in (None, ["u1"]))


@pytest.mark.parametrize("new", [TYPES, SHARDS], ids=["types", "shards"])
async def test_a_cursor_of_an_empty_log_survives_a_new_scheme(store: LogStore, new: Partitions) -> None:
    async with Hub(store.open()) as before, subscribed(before, "u1") as sink:
        await sink.ready()
    await store.pass_time(0.005)
    async with Hub(store.open(new), new) as after:
        await after.dispatch([event("missed", type="a", users=["u1"])])
        async with subscribed(after, "u1", cursor=sink.cursor) as again:
            await again.ready()
    assert again.data == ["missed"]


async def test_partitions_that_a_receipt_does_not_name_start_at_head(
    store: LogStore,
) -> None:
    async with Hub(store.open(TYPES), TYPES) as hub:
        await hub.dispatch([event("old b", type="b")])
        (receipt,) = await hub.dispatch([event("a1", type="a")])
        await hub.dispatch([event("b again", type="b"), event("a2", type="a")])
        assert receipt.positions is not None
        cursor = Cursor(receipt.positions).encode(time=0)
        async with subscribed(hub, cursor=cursor) as sink:
            await sink.ready()
            await publish(hub.transport, "live")
            await sink.has("live")
    assert sink.data == ["a2", "live"]


async def test_records_of_another_scheme_stay_readable(
    store: LogStore,
) -> None:
    old = store.open(TYPES)
    before = await old.head(("a",))
    await old.publish([event("kept", type="a")])
    new = store.open(NONE)
    assert contents(await read(new, before)) == ["kept"]
