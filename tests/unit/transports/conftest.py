"""Fixtures for transports that a test runs without a server."""

from collections.abc import Iterator

import pytest
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports.redis import pubsub

from tests.support.fake_pubsub import FakeRedis


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRedis]:
    """The server behind each RedisPubSub that the test makes."""
    one = FakeRedis()

    def client(url: str) -> FakeRedis:
        one.url = (url,)
        return one

    def connections(url: str, seconds: float) -> FakeRedis:
        one.url = (*one.url, url, seconds)
        return one

    monkeypatch.setattr(pubsub, "make_client", client)
    monkeypatch.setattr(pubsub, "TailConnections", connections)
    monkeypatch.setattr(pubsub, "warnings", ThrottledLog(pubsub.log))
    yield one
    assert not one.waited
