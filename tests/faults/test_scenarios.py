"""Each fault of the table on each transport with a log."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.rigs import PostgresRig, RedisRig, Rig, UpstashRig
from tests.faults.scenarios import SCENARIOS, Scenario, play
from tests.support.postgres_server import PostgresServer, start_postgres

RIGS: dict[str, type[Rig]] = {"redis": RedisRig, "upstash": UpstashRig, "postgres": PostgresRig}


@pytest.fixture(scope="module")
def breakable_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A Postgres to break, one per worker: a new one per test would take longer than the tests."""
    with ExitStack() as stack:
        yield start_postgres(stack, tmp_path_factory.mktemp("postgres"))


@pytest.fixture
async def rig(kind: type[Rig], tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    if kind is PostgresRig:
        made: Rig = PostgresRig(tmp_path, request.getfixturevalue("breakable_postgres"))
    else:
        made = kind(tmp_path)
    async with made:
        yield made


@pytest.mark.parametrize(
    ("kind", "scenario"),
    [
        pytest.param(kind, scenario, id=f"{name}-{scenario.name.replace(' ', '-')}")
        for name, kind in RIGS.items()
        for scenario in SCENARIOS
        if issubclass(kind, scenario.rigs)
    ],
)
async def test_nothing_acknowledged_is_lost_repeated_or_reordered(rig: Rig, scenario: Scenario) -> None:
    """If the store itself loses records, each reader gets a gap."""
    outcome = await play(scenario, rig)
    assert outcome.gaps == (("epoch",) if scenario.loses else ())
