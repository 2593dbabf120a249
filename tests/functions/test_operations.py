"""Health and metrics, for load balancers and scrapers."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tidewire import __version__
from tidewire.delivery.hub import Hub
from tidewire.errors import TransportRefused, TransportUnavailable
from tidewire.http import local
from tidewire.model.event import Event
from tidewire.settings.config import Settings
from tidewire.transports.base import Receipt
from tidewire.transports.memory import MemoryLog

from tests.support.api import Api, problem_of, unique
from tests.support.processes import MakeInstance, MakeRedis


def values(api: Api) -> dict[str, float]:
    """The value of each metric, summed over its labels."""
    response = api.http.get("/api/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(response.text)
    return {family.name: sum(sample.value for sample in family.samples) for family in families}


def test_live_and_ready_have_status_and_version(any_api: Api) -> None:
    live, ready = any_api.http.get("/api/health/live"), any_api.http.get("/api/health/ready")
    assert (live.status_code, live.json()) == (200, {"status": "live", "version": __version__})
    assert ready.status_code == 200
    assert (ready.json()["status"], ready.json()["version"]) == ("ready", __version__)
    for response in (live, ready):
        assert response.headers["cache-control"] == "no-store"


def test_metrics_count_published_and_delivered_events(any_api: Api) -> None:
    kind = unique()
    with any_api.stream(types=kind) as stream:
        stream.ready()
        before = values(any_api)
        assert before["realtime_subscribers"] >= 1
        any_api.publish({"type": kind, "data": 1}, {"type": kind, "data": 2}, {"type": unique(), "data": 3})
        stream.next(), stream.next()
        after = values(any_api)
    assert after["realtime_published"] - before["realtime_published"] == 3
    assert after["realtime_deliveries"] - before["realtime_deliveries"] >= 2


def test_metrics_hold_no_user_type_or_id(api: Api) -> None:
    kind, user, id = unique(), unique("u"), unique("id")
    with api.stream(types=kind, userId=user) as stream:
        stream.ready()
        api.publish({"type": kind, "data": 1, "userIds": [user], "id": id})
        stream.next()
        text = api.http.get("/api/metrics").text
    assert not any(name in text for name in (kind, user, id))


def test_without_the_log_nothing_is_accepted_or_ready(make_redis: MakeRedis, make_instance: MakeInstance) -> None:
    redis = make_redis()
    api = Api(make_instance(REALTIME_TRANSPORT="redis", REDIS_URL=redis.url, REALTIME_AUTH="none"))
    kind = unique()
    api.publish({"type": kind, "data": 1})
    redis.kill()
    for response in (
        api.post(b'{"type": "t", "data": 1}'),
        api.get(),
        api.get({"accept": "text/event-stream"}),
        api.http.get("/api/health/ready"),
    ):
        problem_of(response, 503)
        assert int(response.headers["retry-after"]) >= 1
        assert str(redis.port) not in response.text
    assert api.http.get("/api/health/live").status_code == 200
    redis.start()
    assert (
        api.http.get("/api/health/ready").status_code == 200
    )  # readiness pings despite the open circuit, and its success closes the circuit
    assert [event["data"] for event in api.page(types=kind, from_="earliest")["events"]] == [1]
    assert api.http.get("/api/health/ready").status_code == 200
    api.close()


async def test_ready_reports_every_reason() -> None:
    class LostLog(MemoryLog):
        async def ping(self) -> None:
            raise TransportUnavailable("the store is unavailable")

    async with Hub(LostLog()) as hub:
        hub.drain()
        transport = httpx.ASGITransport(local.app(hub, Settings()))
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            began = time.monotonic()
            problem = problem_of(await client.get("/api/health/ready"), 503)
    assert "draining" in problem["detail"]
    assert "the store is unavailable" in problem["detail"]
    assert time.monotonic() - began < 5


class RefusingLog(MemoryLog):
    """Answers every question, and refuses appends while `why` is set."""

    why: Exception | None = None

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        if self.why is not None:
            raise self.why
        return await super().publish(events)


@asynccontextmanager
async def asking(log: MemoryLog) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an instance on this log."""
    async with Hub(log) as hub:
        transport = httpx.ASGITransport(local.app(hub, Settings()))
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            yield client


async def test_a_lasting_refusal_is_a_reason_until_an_append() -> None:
    """A store that answers and refuses every append (no memory, no right, read-only) left readiness at `ready`."""
    log = RefusingLog()
    async with asking(log) as client:
        log.why = TransportRefused("the store is read-only")
        assert (await client.post("/api/publish", json={"type": "t", "data": 1})).status_code == 503
        problem = problem_of(await client.get("/api/health/ready"), 503)
        assert "the store is read-only" in problem["detail"]
        assert "realtime_append_refused 1.0" in (await client.get("/api/metrics")).text
        log.why = None
        assert (await client.post("/api/publish", json={"type": "t", "data": 1})).status_code == 202
        assert (await client.get("/api/health/ready")).status_code == 200
        assert "realtime_append_refused 0.0" in (await client.get("/api/metrics")).text


async def test_a_refusal_without_a_second_append_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance that is out of rotation gets no publication that could succeed: it must come back by itself."""
    monkeypatch.setattr("tidewire.delivery.hub.REFUSAL_SECONDS", 0.0)
    log = RefusingLog()
    log.why = TransportRefused("the store is read-only")
    async with asking(log) as client:
        assert (await client.post("/api/publish", json={"type": "t", "data": 1})).status_code == 503
        assert (await client.get("/api/health/ready")).status_code == 200


async def test_one_event_that_was_refused_is_no_reason() -> None:
    """A publisher could take an instance out of rotation with one event that is too large for its store."""
    log = RefusingLog()
    log.why = TransportUnavailable("too large")
    async with asking(log) as client:
        assert (await client.post("/api/publish", json={"type": "t", "data": 1})).status_code == 503
        assert (await client.get("/api/health/ready")).status_code == 200
