"""Memory is bounded in bytes: measured in a real process, over HTTP."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.support.clients import Answer, Requests, event, get, read_page
from tests.support.processes import HOST, Instance, MakeInstance, free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MIB = 1024 * 1024
USERS = [f"user-{number:012}" for number in range(1_000)]
CROWD = 4_100  # events for a thousand users each: 400 MB without a bound


def rss(instance: Instance) -> int:
    """Return the memory of the process in bytes."""
    lines = Path(f"/proc/{instance.pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss:"))


async def publish_crowd(instance: Instance, count: int = CROWD) -> Answer:
    """Publish events for a thousand users each; return the first response that is no 202, or the last one."""
    text = json.dumps(event("x", *USERS))
    async with Requests(instance) as requests:
        start = 0
        while True:
            batch = ",".join(text.replace('"id": "x"', f'"id": "{start + number}"') for number in range(40))
            answer = await requests.post(f"[{batch}]")
            start += 40
            if answer.status != 202 or start >= count:
                return answer


async def warm(make_instance: MakeInstance, **settings: str) -> tuple[Instance, int]:
    """Start an instance that has served its first requests; return it, and its memory."""
    instance = await asyncio.to_thread(make_instance, **settings)
    await publish_crowd(instance, 40)
    await get(instance, "/api/metrics")
    return instance, rss(instance)


async def test_the_memory_log_keeps_what_its_bound_says(make_instance: MakeInstance) -> None:
    """Its bound was a number of events, 100,000 per partition, with any number of users each."""
    instance, before = await warm(make_instance, REALTIME_AUTH="none", REALTIME_MEMORY_MIB="32")
    answer = await publish_crowd(instance)
    assert answer.status == 202
    assert rss(instance) - before < 1.5 * 32 * MIB
    page = await read_page(instance, **{"from": "earliest"}, userId=USERS[0])
    assert page["events"]


async def test_ids_of_the_memory_log_are_bounded(make_instance: MakeInstance) -> None:
    """Each id was kept for a day, long after its record."""
    settings = {"REALTIME_AUTH": "none", "REALTIME_MEMORY_MIB": "8", "REALTIME_MAX_EVENTS": "10"}
    instance, before = await warm(make_instance, **settings)

    def batch(start: int) -> str:
        return json.dumps([{"type": "t", "data": 1, "id": f"{start + number:0200}"} for number in range(100)])

    async with Requests(instance) as requests:
        for start in range(0, 80_000, 100):
            assert (await requests.post(batch(start))).status == 202
        again = await requests.post(batch(79_900))
        assert all(receipt["duplicate"] for receipt in again.json()["events"])
    assert rss(instance) - before < 2 * 8 * MIB


async def test_the_outbox_keeps_what_its_bound_says(make_instance: MakeInstance) -> None:
    """It counted only the data: 16 MiB were hundreds of MB with their audiences."""
    url = f"postgres://u@{HOST}:{free_port()}/d?sslmode=disable"
    settings = {"REALTIME_TRANSPORT": "postgres", "DATABASE_URL": url, "REALTIME_FALLBACK": "memory"}
    instance, before = await warm(make_instance, REALTIME_AUTH="none", **settings)
    answer = await publish_crowd(instance)
    answer.assert_unavailable()
    assert "outbox is full" in answer.json()["detail"]
    assert rss(instance) - before < 2 * 16 * MIB
    instance.kill()
