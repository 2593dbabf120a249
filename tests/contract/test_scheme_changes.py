"""The partition scheme changes, at rest and while processes with different ones run: nothing is lost or repeated."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from tidewire.delivery.hub import Hub
from tidewire.errors import TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position, Start
from tidewire.model.event import Event
from tidewire.model.partition_schemes import MAX_ANNOUNCEMENTS
from tidewire.model.partitions import ALL, SCHEMES, Partitions
from tidewire.protocol.sse import DATA
from tidewire.transports.base import Retention, Transport

from tests.contract.acts import event, publish, tailing
from tests.contract.stores import FallbackStore, LogStore, MemoryStore, RedisStore
from tests.support.sinks import RecordingSink, subscribed

NONE = Partitions()
EIGHT = Partitions(user_shards=8)
SIXTEEN = Partitions(user_shards=16)
TYPE_A = Partitions(frozenset({"a"}))
BOTH = Partitions(frozenset({"a"}), user_shards=3)

changes = pytest.mark.parametrize(
    ("old", "new"),
    [(NONE, EIGHT), (EIGHT, NONE), (EIGHT, SIXTEEN), (NONE, TYPE_A), (TYPE_A, NONE), (BOTH, SIXTEEN)],
    ids=["to-shards", "from-shards", "more-shards", "to-type", "from-type", "both-to-shards"],
)


USER = "u3"  # in another shard of 16 than of 8


def home(scheme: Partitions, user: str) -> str:
    """Return the partition of this user's events."""
    ((name, _),) = scheme.route(event(users=[user]))
    return name


def apart_then_together(old: Partitions, new: Partitions) -> tuple[str, str]:
    """Return two users in two shards of the old scheme and in one of the new."""
    users = [f"u{n}" for n in range(300)]
    return next(
        (one, two)
        for one in users
        for two in users
        if home(old, one) != home(old, two) and home(new, one) == home(new, two)
    )


@changes
async def test_events_missed_under_the_old_scheme_are_read(store: LogStore, old: Partitions, new: Partitions) -> None:
    """An event was appended under 8 shards; a resume under 16 was `recovered: true`, without it."""
    async with Hub(store.open(old), old) as before:
        async with subscribed(before, USER) as sink:
            await sink.ready()
            await before.dispatch([event("seen", users=[USER])])
            await sink.has("seen")
        missed = [event(f"{type} {users}", type=type, users=users) for type in "ab" for users in (None, [USER])]
        await before.dispatch(missed)
    await store.pass_time(0.005)
    async with Hub(store.open(new), new) as after:
        async with subscribed(after, USER, cursor=sink.cursor) as again:
            assert (await again.ready())["recovered"] is True
            await after.dispatch([event("live", users=[USER])])
            await again.has("live")
        await after.dispatch([event("later", users=[USER])])
        async with subscribed(after, USER, cursor=again.cursor) as third:
            assert await third.ready() == {"recovered": True, "replayed": 1}
    assert sorted(again.data) == sorted(["live", *(f"{type} {u}" for type in "ab" for u in (None, [USER]))])
    assert third.data == ["later"]


@changes
async def test_an_old_log_is_read_from_its_beginning(store: LogStore, old: Partitions, new: Partitions) -> None:
    await store.open(old).publish([event("old", type="a", users=[USER]), event("all", type="a")])
    async with Hub(store.open(new), new) as hub, subscribed(hub, USER, {"a"}, since="earliest") as sink:
        await sink.ready()
    assert sorted(sink.data) == ["all", "old"]


@changes
async def test_a_retry_across_the_change_is_a_duplicate(store: LogStore, old: Partitions, new: Partitions) -> None:
    batch = [
        event("one", id="1", type="a", users=[USER]),
        event("some", id="2", users=[USER, "u1", "u2"]),
        event("all", id="3", type="a"),
    ]
    first = await store.open(old).publish(batch)
    after = store.open(new)
    await publish(after, "something else")
    again = await after.publish(batch)
    assert [receipt.duplicate for receipt in again] == [True] * 3
    assert [receipt.positions for receipt in again] == [receipt.positions for receipt in first]
    back = await store.open(old).publish(batch)
    assert [receipt.positions for receipt in back] == [receipt.positions for receipt in first]


async def test_a_half_made_append_is_completed_once(store: LogStore) -> None:
    """A process dies when one of two shards has the event; for the retry the two shards are one."""
    one, two = apart_then_together(SIXTEEN, EIGHT)
    before, after = store.open(SIXTEEN), store.open(EIGHT)
    await before.publish([event("x", id="x", users=[two])])
    (receipt,) = await after.publish([event("x", id="x", users=[one, two])])
    assert not receipt.duplicate
    (again,) = await after.publish([event("x", id="x", users=[one, two])])
    assert again.duplicate
    async with Hub(store.open(EIGHT), EIGHT) as hub:
        for user in (one, two):
            async with subscribed(hub, user, since="earliest") as sink:
                await sink.ready()
            assert sink.data == ["x"]


async def test_an_open_stream_of_the_old_scheme_resumes_onto_the_new(store: LogStore) -> None:
    async with Hub(store.open(EIGHT), EIGHT) as before, subscribed(before, USER) as sink:
        await sink.ready()
        await before.dispatch([event("one", users=[USER])])
        await sink.has("one")
        new = store.open(SIXTEEN)
        await new.publish([event("two", users=[USER])])
        await sink.until(lambda: sink.ended)
        assert sink.closing == "draining"
        await new.publish([event("three", users=[USER])])
        await before.dispatch([event("four", users=[USER])])
        async with subscribed(before, USER, cursor=sink.cursor) as again:
            assert (await again.ready())["recovered"] is True
            await new.publish([event("five", users=[USER])])
            await before.dispatch([event("six", users=[USER])])
            await again.received(5)
    assert sink.data == ["one"]
    assert sorted(again.data) == sorted(["two", "three", "four", "five", "six"])


async def test_a_page_reads_what_a_scheme_unknown_to_it_holds(store: LogStore) -> None:
    async with Hub(store.open(EIGHT), EIGHT) as hub:
        sink = RecordingSink()
        await hub.read(Interest(USER), Start(), DATA, sink)
        await store.open(SIXTEEN).publish([event("new", users=[USER])])
        again = RecordingSink()
        await hub.read(Interest(USER), Start(sink.cursor), DATA, again)
    assert again.data == ["new"]


async def test_a_cursor_of_an_instance_that_knows_more_loses_nothing(store: LogStore) -> None:
    """The other instance knows a newer scheme: the partitions in its cursor must not be dropped."""
    old, new = store.open(EIGHT), store.open(SIXTEEN)
    async with Hub(old, EIGHT) as before, Hub(new, SIXTEEN) as after, subscribed(before, "u2") as keeps_it_open:
        await keeps_it_open.ready()
        async with subscribed(after, USER) as sink:
            await sink.ready()
            await after.dispatch([event("one", users=[USER])])
            await sink.has("one")
        async with subscribed(before, USER, cursor=sink.cursor) as there:
            await there.ready()
            await after.dispatch([event("two", users=[USER])])
            await there.has("two")
        async with subscribed(after, USER, cursor=there.cursor) as back:
            assert await back.ready() == {"recovered": True, "replayed": 0}
    assert there.data == ["two"]


async def test_an_announcement_is_brought_before_later_events(store: LogStore) -> None:
    """A reconnecting tail reads both at once: a stream must end before its cursor passes the announcement."""
    log = store.open()
    names = (ALL, "all:u2", SCHEMES)
    before = await log.head(names)
    await store.open(EIGHT).publish([event("all"), event("mine", users=[USER])])
    async with tailing(log, before) as (received, _):
        await received.has("all")
        await received.has("mine")
    assert [item.partition for item in received.items[:2]] == [SCHEMES] * 2


async def test_nobody_is_sent_the_announcements(store: LogStore) -> None:
    async with Hub(store.open(EIGHT), EIGHT) as hub, subscribed(hub, since="earliest") as sink:
        await sink.ready()
        await store.open(SIXTEEN).publish([event("end")])
        control = (await store.open().head((SCHEMES,))).positions
        cursor = Cursor({SCHEMES: control[SCHEMES]._replace(offset=0, check="")}).encode()
        await sink.has("end")
        async with subscribed(hub, cursor=cursor) as forged:
            await forged.ready()
    assert sink.data == ["end"]
    assert [one for one in forged.data if one != "end"] == []


@pytest.fixture
def no_last_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fallback does not wait at its end for a log that refuses for good. A test lists this before its store."""
    monkeypatch.setattr("tidewire.transports.fallback.fallback.LAST_FLUSH", 0.0)


async def test_more_schemes_than_a_cursor_can_name_are_refused(no_last_flush: None, store: LogStore) -> None:
    schemes = [Partitions(frozenset(f"{n}-{letter * 45}" for letter in "abcdefghijklmnop"), 8) for n in range(3)]
    await store.open(schemes[0]).publish([event("first")])
    refused = ""
    for scheme in schemes[1:]:
        try:
            (receipt,) = await store.open(scheme).publish([event("one too many")])
        except TransportUnavailable as error:
            refused = error.detail
        else:
            refused = refused if receipt.durable else "REALTIME_PARTITIONS"  # a fallback keeps it in its outbox
    assert "REALTIME_PARTITIONS" in refused
    await store.open(schemes[0]).publish([event("still")])


async def test_a_full_list_of_schemes_refuses_one_more(no_last_flush: None, store: LogStore) -> None:
    """The oldest announcement was dropped although the log had events of its scheme: `earliest` missed them."""
    first, *others, one_too_many = [Partitions(user_shards=shards) for shards in range(2, MAX_ANNOUNCEMENTS + 2)]
    for scheme in (first, *others):  # with the default scheme, which the first one announces too, the list is full
        log = store.open(scheme)
        await log.publish([event(scheme.user_shards, users=[USER])])
        await log.aclose()
    refused = ""
    try:
        (receipt,) = await store.open(one_too_many).publish([event("one too many", users=[USER])])
    except TransportUnavailable as error:
        refused = error.detail
    else:  # a fallback keeps it in its outbox
        assert not receipt.durable
    if not isinstance(store, FallbackStore):
        assert f"{MAX_ANNOUNCEMENTS} announcements" in refused
        assert "REALTIME_USER_SHARDS" in refused
    await store.open(first).publish([event("still", users=[USER])])
    async with Hub(store.open(first), first) as hub, subscribed(hub, USER, since="earliest") as sink:
        assert (await sink.ready())["recovered"] is True
    expected = [*(scheme.user_shards for scheme in (first, *others)), "still"]
    assert sorted(sink.data, key=str) == sorted(expected, key=str)


async def test_a_full_list_of_schemes_refuses_no_renewal() -> None:
    """A new scheme must not stop existing ones: a scheme in use is renewed even if the list is full."""
    store = MemoryStore()
    retention = Retention(3_600, 0, 3_600)
    schemes = [Partitions(user_shards=shards) for shards in range(2, MAX_ANNOUNCEMENTS + 1)]
    for scheme in schemes:  # with the default scheme the list is full
        await store.open(scheme, retention).publish([event(scheme.user_shards, users=[USER])])
    await store.pass_time(4_000)  # more than half of an announcement's lifetime: it is renewed
    (receipt,) = await store.open(schemes[0], retention).publish([event("renewed", users=[USER])])
    assert receipt.positions is not None
    await store.aclose()


async def test_schemes_of_a_log_that_was_idle_make_room() -> None:
    """Schemes that nobody renewed counted as in use for ever, and each new scheme was refused."""
    store = MemoryStore()
    retention = Retention(3_600, 0, 3_600)
    large = [Partitions(frozenset(f"{n}-{letter * 45}" for letter in "abcdefghijklmnop"), 8) for n in range(2)]
    await store.open(large[0], retention).publish([event("first")])
    with pytest.raises(TransportUnavailable, match="a cursor cannot name"):
        await store.open(large[1], retention).publish([event("too early")])
    await store.pass_time(10_000)
    async with Hub(store.open(large[1], retention), large[1]) as hub:
        await hub.dispatch([event("in time")])
        async with subscribed(hub, since="earliest") as sink:
            await sink.has("in time")
    for number in range(2, MAX_ANNOUNCEMENTS + 2):
        await store.open(Partitions(user_shards=number), retention).publish([event(number)])
        await store.pass_time(1_000)
    await store.aclose()


async def test_a_wiped_log_has_no_schemes_and_gets_them_again(store: LogStore) -> None:
    log = store.open(EIGHT)
    await log.publish([event("before", users=[USER])])
    await store.wipe()
    await log.publish([event("after", users=[USER])])
    async with Hub(store.open(NONE)) as hub, subscribed(hub, USER, since="earliest") as sink:
        await sink.ready()
    assert sink.data == ["after"]


async def test_a_scheme_that_was_never_announced_is_read_out(redis_store: RedisStore) -> None:
    """The log of a release without announcements: only the partitions in the cursor are read."""
    async with Hub(redis_store.open(EIGHT), EIGHT) as before:
        async with subscribed(before, USER) as sink:
            await sink.ready()
            await before.dispatch([event("one", users=[USER])])
            await sink.has("one")
        await before.dispatch([event("two", users=[USER])])
    await redis_store.client.delete(f"rt:{SCHEMES}", f"{{rt:{SCHEMES}}}:meta")
    async with Hub(redis_store.open(SIXTEEN), SIXTEEN) as after:
        async with subscribed(after, USER, cursor=sink.cursor) as again:
            assert await again.ready() == {"recovered": True, "replayed": 1}
        assert again.data == ["two"]
        async with subscribed(after, USER, cursor=again.cursor) as third:
            assert await third.ready() == {"recovered": True, "replayed": 0}
        keys = set(await redis_store.client.keys())
        at = Cursor.parse(sink.cursor)
        assert at is not None
        made_up = {**at.positions, "never-received-of": Position(1, 1, "", at.time)}
        async with subscribed(after, USER, cursor=Cursor(made_up).encode()) as gap:
            assert (await gap.ready())["recovered"] is False
        assert gap.gaps == ["trimmed"]
        assert set(await redis_store.client.keys()) == keys


async def test_an_expired_scheme_is_not_read_any_more() -> None:
    """A scheme in use is renewed; one that is not expires with its events and ids."""
    store = MemoryStore()
    retention = Retention(3_600, 0, 3_600)
    old, new = store.open(TYPE_A, retention), store.open(NONE, retention)
    await old.publish([event("old", type="a")])
    for _ in range(5):
        await store.pass_time(2_000)
        await new.publish([event("new")])
    async with Hub(new) as hub, subscribed(hub, types={"a"}) as sink:
        await sink.ready()
        assert set(hub.fanout.positions) == {ALL, SCHEMES}
        await old.publish([event("again", type="a")])
        await sink.until(lambda: sink.ended)
        async with subscribed(hub, types={"a"}, cursor=sink.cursor) as back:
            await back.ready()
    assert back.data == ["again"]
    await store.aclose()


class Follower:
    """A client that resumes at one instance after the other, and must get each of its events once."""

    def __init__(self, user: str | None, types: set[str] | None) -> None:
        self.user, self.types = user, types
        self.data: list[Any] = []
        self.cursor: str | None = None

    def wants(self, one: Event) -> bool:
        return Interest(self.user, None if self.types is None else frozenset(self.types)).matches(one)

    async def visit(self, hub: Hub, during: Sequence[tuple[Transport, list[Event]]] = ()) -> None:
        async with subscribed(hub, self.user, self.types, cursor=self.cursor) as sink:
            ready = await sink.ready()
            assert ready["recovered"] is True
            for log, batch in during:
                await log.publish(batch)
        self.data += sink.data
        self.cursor = sink.cursor


@pytest.mark.parametrize(
    "seed", [seed if seed < 10 else pytest.param(seed, marks=pytest.mark.full) for seed in range(40)]
)
async def test_any_sequence_of_changes_loses_and_repeats_nothing(seed: int) -> None:
    """Random schemes, publications, late retries under any scheme, and resumes on any instance."""
    rng = random.Random(seed)
    schemes = rng.sample([NONE, EIGHT, SIXTEEN, TYPE_A, BOTH, Partitions(frozenset({"a", "b"}), 5)], 4)
    store = MemoryStore()
    followers = [Follower(user, types) for user in (None, "u1", "u2", USER) for types in (None, {"a"}, {"b", "c"})]
    published: list[Event] = []
    async with AsyncExitStack() as stack:
        hubs: list[Hub] = []

        async def new_instance() -> None:
            scheme = rng.choice(schemes)
            hubs.append(await stack.enter_async_context(Hub(store.open(scheme), scheme)))

        def batch() -> list[Event]:
            made = []
            for _ in range(rng.randint(1, 4)):
                users = rng.choice([None, [USER], ["u1", "u2"], [USER, "u1", "u2", "u4"]])
                number = len(published)
                published.append(event(number, id=str(number), type=rng.choice("abc"), users=users))
                made.append(published[-1])
            return [*made, *rng.sample(published, min(len(published), rng.randint(0, 3)))]

        await new_instance()
        for follower in followers:
            await follower.visit(hubs[0])
        for _ in range(30):
            await store.pass_time(rng.choice([0, 0.001, 1, 100]))
            act = rng.random()
            if act < 0.15:
                await new_instance()
            elif act < 0.5:
                await rng.choice(hubs).dispatch(batch())
            elif act < 0.6:
                await asyncio.gather(*(rng.choice(hubs).dispatch(batch()) for _ in range(4)))
            else:
                during = [(rng.choice(hubs).transport, batch()) for _ in range(rng.randint(0, 2))]
                await rng.choice(followers).visit(rng.choice(hubs), during)
        for follower in followers:
            await follower.visit(rng.choice(hubs))
            await follower.visit(rng.choice(hubs))
    for follower in followers:
        owed = [msgspec.json.decode(one.data) for one in published if follower.wants(one)]
        assert sorted(follower.data) == owed, f"{follower.user} {follower.types}"
    await store.aclose()
