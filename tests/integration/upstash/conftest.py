"""A log over the stand-in, and the real Redis behind it."""

import pytest
from tidewire.transports.upstash.rest_log import UpstashRest

from tests.contract.stores import UpstashStore


@pytest.fixture
def log(upstash_store: UpstashStore) -> UpstashRest:
    """One process's log."""
    log = upstash_store.open()
    assert isinstance(log, UpstashRest)
    return log
