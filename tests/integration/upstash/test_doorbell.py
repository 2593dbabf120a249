"""The doorbell over HTTP: the stand-in's event stream is refused, cut, silent, or loses and repeats rings."""

import asyncio
import random
from collections.abc import Sequence

import httpx
import pytest
from tidewire.delivery.hub import Hub
from tidewire.model.partitions import ALL, Partitions
from tidewire.model.permissions import REVOCATIONS
from tidewire.transports.upstash import bell, session, tail
from tidewire.transports.upstash.rest_log import UpstashRest
from tidewire.transports.upstash.tail import RestTail

from tests.contract.acts import publish, tailing
from tests.contract.stores import UpstashStore
from tests.support.sinks import subscribed
from tests.support.upstash_stand_in import Fault, StandIn
from tests.support.waiting import eventually

SLOW = (0.5, 20.0)  # seconds: nothing that a test waits for was found by a poll
REFUSED: dict[str, Fault] = {
    "404": Fault(404, body=b"hunter2"),
    "405": Fault(405),
    "400": Fault(400, body=b'{"error":"ERR hunter2"}'),
    "redirect": Fault(302, {"location": "http://127.0.0.1:1/hunter2"}),
    "page": Fault(200, {"content-type": "text/html"}, b"<h1>hunter2</h1>"),
}


@pytest.fixture
def slow(upstash_store: UpstashStore, monkeypatch: pytest.MonkeyPatch) -> UpstashStore:
    """A store whose readers hardly poll."""
    monkeypatch.setattr(UpstashStore, "POLL", SLOW)
    return upstash_store


async def test_events_are_delivered_on_rings_alone(slow: UpstashStore, upstash: StandIn) -> None:
    """Each costs its reader one command; the partition's own and the control partitions' rings are heard."""
    scheme = Partitions(frozenset({"t"}))
    publisher, log = slow.open(scheme), slow.open(scheme)
    await publish(publisher, "scheme")
    async with tailing(log, await log.head((ALL, "t", REVOCATIONS))) as (received, reading):
        assert isinstance(reading, RestTail)
        await eventually(lambda: reading.bell_heard)
        upstash.requests.clear()
        for number in range(8):
            await publish(publisher, number)
            await received.has(number)
    assert received.data == list(range(8))
    assert upstash.commands["XREAD"] <= 8 + 2, "a read may end before a ring of its own record is heard"


@pytest.mark.parametrize("fault", REFUSED.values(), ids=REFUSED)
async def test_a_server_without_event_streams_is_polled(
    upstash_store: UpstashStore, upstash: StandIn, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    """It is reported once, without what the server said; no retry is due for minutes."""
    upstash.stream_faults.append(fault)
    async with Hub(upstash_store.open()) as hub, subscribed(hub) as sink:
        await sink.ready()
        await eventually(lambda: hub.advice)
        await publish(upstash_store.open(), "polled")
        await sink.has("polled")
        assert hub.advice is not None
        assert f"HTTP {fault.status}" in hub.advice
        assert hub.tail.trouble is None
    assert upstash.commands["SUBSCRIBE"] == 1
    assert sum("SUBSCRIBE" in message for message in caplog.messages) == 1
    assert "hunter2" not in caplog.text


async def test_a_user_who_may_not_publish_polls(upstash_store: UpstashStore, upstash: StandIn) -> None:
    client = upstash_store.client
    await client.execute_command("ACL", "SETUSER", "default", "-publish")  # type: ignore[no-untyped-call]  # redis-py leaves it so
    try:
        async with Hub(upstash_store.open()) as hub, subscribed(hub) as sink:
            await eventually(lambda: hub.advice == bell.MAY_NOT_RING)
            await publish(upstash_store.open(), "polled")
            await sink.has("polled")
    finally:
        await client.execute_command("ACL", "SETUSER", "default", "+publish")  # type: ignore[no-untyped-call]


async def test_publishers_without_rings_are_noticed(
    slow: UpstashStore, upstash: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader's own rings arrive, but no publisher's."""
    monkeypatch.setattr(tail, "VERIFY", 0.2)
    monkeypatch.setattr(bell, "LATE", 0.2)
    upstash.ring = lambda message: [(0.0, message)] if message == "=" else []
    log = slow.open()
    async with tailing(log, await log.head((ALL,))) as (received, reading):
        assert isinstance(reading, RestTail)
        await eventually(lambda: reading.bell_heard)
        for number in range(2):
            await publish(slow.open(), number)
            await received.has(number)
        await eventually(lambda: reading.advice == bell.SILENT_PUBLISHERS)
        assert not reading.bell_heard
        assert reading.running


@pytest.mark.parametrize("phase", ["response", "confirmation"])
async def test_a_silent_response_is_given_up(
    upstash_store: UpstashStore, upstash: StandIn, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """A proxy may hold the response back until it ends, which it never does."""
    monkeypatch.setattr(session, "READ_TIMEOUT", 0.2)
    monkeypatch.setattr(bell, "ANSWER", 0.2)
    events = {"content-type": "text/event-stream", "content-length": "99"}
    upstash.stream_faults.append(Fault(silent=True) if phase == "response" else Fault(200, events, b"", keep=0))
    log = upstash_store.open()
    async with tailing(log, await log.head((ALL,))) as (received, reading):
        assert isinstance(reading, RestTail)
        await eventually(lambda: upstash.commands["SUBSCRIBE"] == 1)
        await publish(upstash_store.open(), "polled")
        await received.has("polled")
        await eventually(lambda: reading.bell_heard)
        assert upstash.commands["SUBSCRIBE"] >= 2


async def test_a_refusal_with_a_pause_holds_all_requests(slow: UpstashStore, upstash: StandIn) -> None:
    """429 speaks of the deployment, not of SUBSCRIBE."""
    log = slow.open()
    assert isinstance(log, UpstashRest)
    async with tailing(log, await log.head((ALL,))) as (_, reading):
        assert isinstance(reading, RestTail)
        await eventually(lambda: reading.bell_heard)
        upstash.stream_faults.append(Fault(429, {"retry-after": "1"}))
        upstash.cut_streams()
        await eventually(lambda: log.session.seconds_held > 0)
        asked = len(upstash.requests)
        await eventually(lambda: log.session.seconds_held == 0)
        assert len(upstash.requests) == asked
        await eventually(lambda: reading.bell_heard)
        assert reading.advice is None


async def test_a_wrong_token_of_a_stream_is_tried_again_later(
    log: UpstashRest, upstash: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstash.stream_faults.append(Fault(401))
    async with tailing(log, await log.head((ALL,))):
        await eventually(lambda: upstash.commands["XREAD"] >= 10)
        assert upstash.commands["SUBSCRIBE"] == 1


async def test_cut_streams_lose_nothing(slow: UpstashStore, upstash: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event comes while the stream is being opened again."""
    monkeypatch.setattr(bell, "STEADY", 0.0)
    publisher, log = slow.open(), slow.open()
    async with tailing(log, await log.head((ALL,))) as (received, reading):
        assert isinstance(reading, RestTail)
        for number in range(10):
            await eventually(lambda: reading.bell_heard)
            upstash.cut_streams()
            await publish(publisher, number)
            await received.has(number)
    assert received.data == list(range(10))


async def test_the_servers_restart_is_survived(slow: UpstashStore, upstash: StandIn) -> None:
    log = slow.open()
    async with tailing(log, await log.head((ALL,))) as (received, reading):
        assert isinstance(reading, RestTail)
        await eventually(lambda: reading.bell_heard)
        await asyncio.to_thread(upstash.stop)
        await eventually(lambda: not reading.running)
        assert not reading.bell_heard
        await asyncio.to_thread(upstash.resume)
        await publish(slow.open(), "later")
        await received.has("later")
        await eventually(lambda: reading.bell_heard)
        assert reading.running


@pytest.mark.parametrize("seed", range(3))
async def test_random_faults_of_rings_lose_nothing(
    upstash_store: UpstashStore, upstash: StandIn, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Rings are dropped, doubled, delayed and so reordered, and streams are cut; two publishers append at once."""
    monkeypatch.setattr(tail, "VERIFY", 0.5)
    rng = random.Random(seed)

    def ring(message: str) -> Sequence[tuple[float, str]]:
        return [(rng.choice((0.0, 0.005, 0.05)), message) for _ in range(rng.choice((0, 1, 1, 2)))]

    upstash.ring = ring
    log = upstash_store.open()

    async def publish_all(name: str) -> None:
        publisher = upstash_store.open()
        for number in range(60):
            await publish(publisher, f"{name} {number}")
            if rng.random() < 0.05:
                upstash.cut_streams()

    async with tailing(log, await log.head((ALL,))) as (received, _):
        await asyncio.gather(publish_all("a"), publish_all("b"))
        await received.until(lambda: len(received.data) >= 120)
    for name in "ab":
        assert [data for data in received.data if str(data)[0] == name] == [f"{name} {number}" for number in range(60)]


async def test_the_stand_in_streams_as_the_vendor_documents(upstash: StandIn) -> None:
    """The example of the REST API's documentation."""
    headers = {"authorization": f"Bearer {upstash.token}", "accept": "text/event-stream"}
    async with (
        httpx.AsyncClient(base_url=upstash.url, headers=headers) as client,
        client.stream("POST", "/subscribe/chat") as response,
    ):
        assert response.headers["content-type"] == "text/event-stream"
        lines = response.aiter_lines()
        assert await anext(lines) == "data: subscribe,chat,1"
        await client.post("/", json=["PUBLISH", "chat", "hello, you"])
        assert await anext(lines) == ""
        assert await anext(lines) == "data: message,chat,hello, you"
    async with httpx.AsyncClient(base_url=upstash.url) as client:
        assert (await client.post("/subscribe/chat")).status_code == 401
