"""A cluster that no other folder's tests use: these tests kill, pause and reshard its nodes."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import shared_cluster  # noqa: F401 — the same fixture, with a cluster of its own
from tests.contract.stores import ClusterStore
from tests.support.redis_cluster import RedisCluster


@pytest.fixture
async def store(redis_cluster: RedisCluster) -> AsyncIterator[ClusterStore]:
    """A log in the cluster, as it was at the start."""
    made = ClusterStore(redis_cluster)
    yield made
    await made.aclose()
