"""A log over the stand-in, and the real Redis behind it."""

from collections.abc import AsyncIterator

import pytest
from tidewire.transports.upstash.rest_log import UpstashRest

from tests.contract.stores import UpstashStore
from tests.support.upstash_stand_in import StandIn


@pytest.fixture
async def store(redis_url: str, upstash: StandIn) -> AsyncIterator[UpstashStore]:
    """Redis behind the stand-in, emptied."""
    store = UpstashStore(redis_url, upstash)
    yield store
    await store.aclose()


@pytest.fixture
def log(store: UpstashStore) -> UpstashRest:
    """One process's log."""
    log = store.open()
    assert isinstance(log, UpstashRest)
    return log
