"""The suite runs once for each transport of `stores`."""

from collections.abc import AsyncIterator

import pytest
from tidewire.transports.base import Log

from tests.contract.stores import CARRIERS, LOGS, LogStore, Store, each
from tests.support.sentinel import SentinelGroup


@pytest.fixture
def sentinel_url(sentinel_group: SentinelGroup) -> str:
    """The URL of a primary that sentinels know."""
    return sentinel_group.url


@pytest.fixture
def sentinel_primary(sentinel_group: SentinelGroup) -> str:
    """The URL of that primary itself."""
    return sentinel_group.primary.url


@pytest.fixture(params=each(LOGS, CARRIERS))
def made_store(request: pytest.FixtureRequest) -> Store:
    """A store of any transport; request `any_store`, which closes it too."""
    make, fixtures = {**LOGS, **CARRIERS}[request.param]
    return make(*(request.getfixturevalue(name) for name in fixtures))


@pytest.fixture
async def any_store(made_store: Store) -> AsyncIterator[Store]:
    """A store of any transport."""
    yield made_store
    await made_store.aclose()


@pytest.fixture(params=each(LOGS))
def made_log_store(request: pytest.FixtureRequest) -> LogStore:
    """A store with a log; request `store`, which closes it too."""
    make, fixtures = LOGS[request.param]
    return make(*(request.getfixturevalue(name) for name in fixtures))


@pytest.fixture
async def store(made_log_store: LogStore) -> AsyncIterator[LogStore]:
    """A store with a log."""
    yield made_log_store
    await made_log_store.aclose()


@pytest.fixture
def log(store: LogStore) -> Log:
    """One process's log on that store."""
    return store.open()


@pytest.fixture(params=each(CARRIERS))
def made_carrier_store(request: pytest.FixtureRequest) -> Store:
    """A store of a transport without a log; request `carrier_store`, which closes it too."""
    make, fixtures = CARRIERS[request.param]
    return make(*(request.getfixturevalue(name) for name in fixtures))


@pytest.fixture
async def carrier_store(made_carrier_store: Store) -> AsyncIterator[Store]:
    """A store of a transport without a log."""
    yield made_carrier_store
    await made_carrier_store.aclose()
