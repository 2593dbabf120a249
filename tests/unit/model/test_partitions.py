"""Writers and readers must agree on the partitions of an event."""

import pytest
from tidewire.model.audience import Interest
from tidewire.model.event import Event
from tidewire.model.partitions import ALL, MAX_COPIES, Partitions

SCHEMES = [
    Partitions(),
    Partitions(frozenset({"a"})),
    Partitions(user_shards=1),
    Partitions(user_shards=7),
    Partitions(frozenset({"a", "b"}), 3),
    Partitions(frozenset({"a"}), 256),
]
USERS = [None, *(f"u{n}" for n in range(20)), "ü ñ"]
TYPES = ["a", "b", "c"]


def make(type: str, users: tuple[str, ...] | None = None) -> Event:
    return Event("1", type, b"null", users)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("wanted", [None, {"a"}, {"a", "b"}, {"c"}, {"a", "c"}])
def test_a_subscriber_reads_each_event_in_one_partition(scheme: Partitions, wanted: set[str] | None) -> None:
    audiences = [None, ("u1",), ("u2", "u3", "u4"), tuple(f"u{n}" for n in range(20)), ("ü ñ",)]
    for user in USERS:
        interest = Interest(user, None if wanted is None else frozenset(wanted))
        read = scheme.partitions_for(interest)
        assert len(set(read)) == len(read)
        for type in TYPES:
            for audience in audiences:
                event = make(type, audience)
                found = [p for p, part in scheme.route(event) if p in read and interest.matches(part)]
                assert len(found) == interest.matches(event)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_copies_divide_the_audience_and_nothing_else(scheme: Partitions) -> None:
    event = Event("1", "a", b'{"x": 1}', tuple(f"u{n}" for n in range(20)), {"source": "/s"})
    parts = scheme.route(event)
    users = [user for _, part in parts for user in part.user_ids or ()]
    assert sorted(users) == sorted(event.user_ids or ())
    assert len({partition for partition, _ in parts}) == len(parts) <= max(1, min(MAX_COPIES, scheme.user_shards))
    for _, part in parts:
        assert (part.id, part.type, part.data, part.attributes, part.key) == (
            event.id,
            event.type,
            event.data,
            event.attributes,
            event.key,
        )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_copies_are_counted_as_they_are_routed(scheme: Partitions) -> None:
    """The count bounds a batch before anything is appended."""
    events = [make("a"), make("a", ("u1",)), make("c", tuple(f"u{n}" for n in range(20)))]
    assert [scheme.copies([event]) for event in events] == [len(scheme.route(event)) for event in events]
    assert scheme.copies(events) == sum(len(scheme.route(event)) for event in events)


def test_by_default_all_is_in_one_partition() -> None:
    assert Partitions().route(make("a", ("u1",))) == [(ALL, make("a", ("u1",)))]
    assert Partitions().partitions_for(Interest("u1", frozenset({"a"}))) == (ALL,)


def test_a_type_is_one_partition_and_a_user_adds_a_shard() -> None:
    scheme = Partitions(frozenset({"a"}), 8)
    assert scheme.partitions_for(Interest(None, frozenset({"a"}))) == ("a",)
    everyone, own = scheme.partitions_for(Interest("u1", frozenset({"a"})))
    assert everyone == "a"
    assert own.startswith("a:u")
    assert scheme.route(make("a")) == [("a", make("a"))]


def test_a_users_shard_is_the_same_in_every_process_and_release() -> None:
    scheme = Partitions(user_shards=16)  # known values: another hash would strand what is stored
    assert [p for user in ("u1", "u2", "alice", "ü") for p, _ in scheme.route(make("t", (user,)))] == [
        "all:u6",
        "all:u12",
        "all:u7",
        "all:u5",
    ]


@pytest.mark.parametrize(("shards", "copies"), [(MAX_COPIES, MAX_COPIES), (MAX_COPIES + 1, 1)])
def test_an_event_has_at_most_so_many_copies(shards: int, copies: int) -> None:
    scheme = Partitions(user_shards=256)
    by_shard = {scheme.route(make("a", (f"u{n}",)))[0][0]: f"u{n}" for n in range(200)}
    event = make("a", tuple(by_shard.values())[:shards])
    routed = scheme.route(event)
    assert len(routed) == copies
    assert (routed == [(ALL, event)]) is (copies == 1)
