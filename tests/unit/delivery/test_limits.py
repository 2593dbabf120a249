"""Limits at their edge: what is still accepted, what is refused with which problem, and what is given back."""

import pytest
from tidewire.delivery import limits
from tidewire.delivery.limits import Connections, PublishRate
from tidewire.errors import TooManyRequests
from tidewire.model.permissions import PublishKey
from tidewire.primitives.token_bucket import LocalBuckets
from tidewire.settings.variables import Rate
from tidewire.transports.memory import MemoryLog

from tests.support.clocks import Clock

RATE = Rate(1_200, 60.0)
KEY = PublishKey("a-publish-key-of-32-characters-00")


class SharedBuckets(MemoryLog):
    """A transport whose store counts: records each call, and answers `wait`."""

    def __init__(self, wait: float = 0.0) -> None:
        super().__init__()
        self.wait = wait
        self.taken: list[tuple[str, int, int, float]] = []

    async def take(self, bucket: str, cost: int, capacity: int, seconds: float) -> float:
        self.taken.append((bucket, cost, capacity, seconds))
        return self.wait


def entering(connections: Connections, user_id: str | None = None) -> TooManyRequests:
    """The refusal of one more connection."""
    with pytest.raises(TooManyRequests) as caught:
        connections.enter(user_id)
    return caught.value


async def test_a_bucket_is_shared_and_named_by_no_secret() -> None:
    """Every process that knows the key, of any version, counts in the same bucket of the store."""
    store = SharedBuckets()
    rate = PublishRate(RATE, store)
    await rate.take(KEY, 3)
    await rate.take(PublishKey("another"), 1)
    await rate.take(None, 2)
    assert store.taken == [
        ("328fde1737ec2fbd", 3, 1_200, 60.0),
        ("ae448ac86c4e8e4d", 1, 1_200, 60.0),
        ("anyone", 2, 1_200, 60.0),
    ]


async def test_without_a_rate_the_store_is_not_called() -> None:
    store = SharedBuckets(wait=9.0)
    await PublishRate(None, store).take(KEY, 1_000_000)
    assert store.taken == []


@pytest.mark.parametrize(("wait", "retry_after"), [(0.01, 1), (1.0, 1), (1.01, 2), (59.5, 60)])
async def test_a_rate_is_refused_with_whole_seconds(wait: float, retry_after: int) -> None:
    """Rounded up: a client that comes back after them is not refused again."""
    with pytest.raises(TooManyRequests) as caught:
        await PublishRate(RATE, SharedBuckets(wait)).take(KEY, 1)
    refused = caught.value
    assert refused.detail == (
        "This key may publish 1,200 events, or copies for user shards, per 60 s (REALTIME_PUBLISH_RATE)"
    )
    assert (refused.limit, refused.retry_after) == ("publish-rate", retry_after)


async def test_a_store_that_cannot_count_leaves_it_here(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(limits, "LocalBuckets", lambda: LocalBuckets(clock))
    rate = PublishRate(Rate(10, 60.0), MemoryLog())
    await rate.take(KEY, 10)
    with pytest.raises(TooManyRequests):
        await rate.take(KEY, 1)
    await rate.take(None, 10)
    clock.advance(6.0)
    await rate.take(KEY, 1)


def test_the_last_connection_is_accepted_and_no_more() -> None:
    connections = Connections(1_000, 0)
    for number in range(1_000):
        connections.enter(f"u{number % 2}")
    refused = entering(connections)
    assert refused.detail == "This instance holds 1,000 connections (REALTIME_MAX_CONNECTIONS)"
    assert (refused.limit, refused.retry_after) == ("connections", 5)
    connections.leave("u1")
    connections.enter("u3")
    assert entering(connections).limit == "connections"


def test_a_user_has_a_limit_of_its_own() -> None:
    connections = Connections(0, 2)
    for user_id in ("u1", "u2", "u1"):
        connections.enter(user_id)
    refused = entering(connections, "u1")
    assert refused.detail == "This user has 2 connections (REALTIME_MAX_USER_CONNECTIONS)"
    assert (refused.limit, refused.retry_after) == ("user-connections", 5)
    connections.enter("u2")
    connections.leave("u1")
    connections.enter("u1")
    assert entering(connections, "u1").limit == entering(connections, "u2").limit == "user-connections"
    for _ in range(5):
        connections.enter(None)  # without a user: only the instance's limit counts


def test_a_refused_user_takes_no_place_of_the_instance() -> None:
    connections = Connections(2, 1)
    connections.enter("u1")
    assert entering(connections, "u1").limit == "user-connections"
    connections.enter("u2")
    assert entering(connections, "u3").limit == "connections"
    connections.leave("u2")
    connections.enter("u3")


def test_no_limit_is_no_limit() -> None:
    connections = Connections(0, 0)
    for _ in range(10_000):
        connections.enter("u1")
    connections.leave("u1")
