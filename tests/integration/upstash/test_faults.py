"""Upstash refuses, breaks off, is silent or loses data: what publishers and readers get, and what is stored."""

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest
from tidewire.delivery.hub import Hub
from tidewire.errors import TransportUnavailable
from tidewire.model.partitions import Partitions
from tidewire.model.record import Record
from tidewire.primitives import circuit_breaker
from tidewire.transports.upstash import session
from tidewire.transports.upstash.rest_log import UpstashRest

from tests.contract.acts import at, contents, event, head, place, publish, read, start_of, tailing
from tests.contract.stores import UpstashStore
from tests.support.clocks import Clock
from tests.support.sinks import subscribed
from tests.support.upstash_stand_in import Fault, StandIn
from tests.support.waiting import eventually

ERROR = b'{"error":"ERR no"}'
LOST_ANSWER = Fault(run=True, keep=0)
NO_STREAM = Fault(404)  # of SUBSCRIBE: the tail polls, and meets whatever fault is next

REFUSALS: dict[str, tuple[Fault, int]] = {
    # the response, and the seconds of the publisher's Retry-After
    "429-with-seconds": (Fault(429, {"retry-after": "7"}), 7),
    "429-with-zero-seconds": (Fault(429, {"retry-after": "0"}), 1),
    "429-with-more-than-a-day": (Fault(429, {"retry-after": "999999999999"}), 3_600),
    "429-with-a-date-gone-by": (Fault(429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}), 1),
    "429-without": (Fault(429), 5),
    "429-with-nonsense": (Fault(429, {"retry-after": "soon \u0663"}), 5),
    "503-with-seconds": (Fault(503, {"retry-after": "120"}), 120),
    "500-with-json": (Fault(500), 1),
    "502-with-html": (Fault(502, {"content-type": "text/html"}, b"<h1>hunter2</h1>"), 1),
    "401": (Fault(401, body=b'{"error":"WRONGPASS hunter2"}'), 30),
    "403": (Fault(403), 30),
    "404": (Fault(404), 1),
    "redirect": (Fault(302, {"location": "http://127.0.0.1:1/hunter2"}), 1),
    "200-with-html": (Fault(200, {"content-type": "text/html"}, b"<h1>hunter2</h1>"), 1),
    "200-with-other-json": (Fault(200, body=b'{"hunter2":[]}'), 1),
    "200-with-too-few-replies": (Fault(200, body=b"[]"), 1),
    "200-with-half-a-json": (Fault(200, body=b'[{"result":"hunter2'), 1),
    "400-for-the-whole": (Fault(400, body=b'{"error":"ERR hunter2"}'), 1),
    "400-with-html": (Fault(400, body=b"<h1>hunter2</h1>"), 1),
    "command-refused": (Fault(200, body=b'[{"error":"OOM hunter2"}]'), 1),
}


@pytest.mark.parametrize(("fault", "retry_after"), REFUSALS.values(), ids=REFUSALS)
async def test_refused_publish_has_a_retry_after_and_no_secret(
    log: UpstashRest,
    upstash_store: UpstashStore,
    upstash: StandIn,
    fault: Fault,
    retry_after: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The publisher gets the seconds until the next attempt; nothing was appended."""
    caplog.set_level(logging.INFO)
    before = await head(log)
    upstash.faults.append(fault)
    with pytest.raises(TransportUnavailable) as caught:
        await publish(log, "refused")
    assert caught.value.retry_after == retry_after
    for secret in ("hunter2", "127.0.0.1", str(upstash.port), upstash.token):
        assert secret not in caught.value.detail
        assert secret not in caplog.text
    assert await head(upstash_store.open()) == before


async def test_a_retry_after_that_is_a_date_becomes_seconds(log: UpstashRest, upstash: StandIn) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=90)
    upstash.faults.append(Fault(429, {"retry-after": format_datetime(moment, usegmt=True)}))
    with pytest.raises(TransportUnavailable) as caught:
        await publish(log, "refused")
    assert 80 <= caught.value.retry_after <= 90


async def test_a_wrong_token_is_unavailable_with_its_status(upstash_store: UpstashStore, upstash: StandIn) -> None:
    log = upstash_store.open()
    upstash.token = "another one"
    for call in (publish(log, 1), log.head(("all",)), log.seek(("all",), None), log.ping()):
        with pytest.raises(TransportUnavailable, match="HTTP 401"):
            await call


async def test_no_request_is_sent_before_the_retry_after(
    log: UpstashRest, upstash: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(circuit_breaker, "time", SimpleNamespace(monotonic=clock))
    upstash.faults.append(Fault(429, {"retry-after": "20"}))
    with pytest.raises(TransportUnavailable):
        await log.ping()
    asked = len(upstash.requests)
    for passed, left in ((0.0, 20), (12.5, 8), (7.4, 1)):
        clock.advance(passed)
        with pytest.raises(TransportUnavailable, match="HTTP 429") as caught:
            await publish(log, "not now")
        assert caught.value.retry_after == left
    assert len(upstash.requests) == asked
    clock.advance(0.2)
    await publish(log, "now")
    assert len(upstash.requests) > asked


async def test_a_retry_after_of_an_hour_holds_for_30_seconds(
    log: UpstashRest, upstash: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(circuit_breaker, "time", SimpleNamespace(monotonic=clock))
    upstash.faults.append(Fault(503, {"retry-after": "3600"}))
    with pytest.raises(TransportUnavailable):
        await log.ping()
    clock.advance(session.HOLD_SECONDS)
    await log.ping()


@pytest.mark.parametrize(("phase", "whole"), [(0.2, 20.0), (5.0, 0.2)], ids=["a-phase", "the-whole-exchange"])
async def test_a_silent_server_holds_a_publisher_for_one_time_out(
    upstash_store: UpstashStore, upstash: StandIn, monkeypatch: pytest.MonkeyPatch, phase: float, whole: float
) -> None:
    monkeypatch.setattr(session, "READ_TIMEOUT", phase)
    monkeypatch.setattr(session, "EXCHANGE_TIMEOUT", whole)
    log = upstash_store.open()
    upstash.faults.append(Fault(silent=True))
    with pytest.raises(TransportUnavailable) as caught:
        async with asyncio.timeout(3):
            await publish(log, "unheard")
    assert caught.value.retry_after == 5
    assert len(upstash.requests) == 1, "a silent server must not be asked again while the publisher waits"
    await publish(log, "received")


@pytest.mark.parametrize("keep", [0, 20, 150])
async def test_a_lost_response_is_retried_and_appends_once(log: UpstashRest, upstash: StandIn, keep: int) -> None:
    before = await head(log)
    upstash.faults.append(Fault(run=True, keep=keep))
    (receipt,) = await publish(log, "once")
    assert place(receipt).offset == 1
    assert contents(await read(log, at(before))) == ["once"]


async def test_lost_responses_fail_and_a_later_retry_appends_once(log: UpstashRest, upstash: StandIn) -> None:
    before = await head(log)
    one = event("once")
    upstash.faults.extend([LOST_ANSWER] * session.TRIES)
    with pytest.raises(TransportUnavailable):
        await log.publish([one])
    (receipt,) = await log.publish([one])
    assert receipt.duplicate
    assert contents(await read(log, at(before))) == ["once"]


async def test_a_kept_connection_that_died_fails_no_publish(log: UpstashRest, upstash: StandIn) -> None:
    await publish(log, 1)
    await asyncio.to_thread(upstash.stop)
    await asyncio.to_thread(upstash.resume)
    await publish(log, 2)


async def test_a_server_that_is_unavailable_is_unavailable(log: UpstashRest, upstash: StandIn) -> None:
    await asyncio.to_thread(upstash.stop)
    for call in (publish(log, 1), log.head(("all",)), log.seek(("all",), 0), log.ping()):
        with pytest.raises(TransportUnavailable):
            await call


async def test_scripts_are_sent_in_full_once_after_a_restart(upstash_store: UpstashStore, upstash: StandIn) -> None:
    """The retried calls mark no event as a duplicate."""
    log = upstash_store.open(Partitions(frozenset({"a", "b"})))
    await log.publish([event("announces the scheme")])
    await upstash_store.client.script_flush()
    for expected in ({"EVALSHA": 3, "EVAL": 3}, {"EVALSHA": 3}):
        upstash.requests.clear()
        receipts = await log.publish([event(1, type=type) for type in ("a", "b", "c")])
        assert [receipt.duplicate for receipt in receipts] == [False, False, False]
        assert upstash.commands == expected


async def test_the_tail_resumes_after_every_kind_of_refusal(upstash_store: UpstashStore, upstash: StandIn) -> None:
    """It misses and repeats nothing."""
    upstash.stream_faults.append(NO_STREAM)
    publisher = upstash_store.open()
    async with Hub(upstash_store.open()) as hub, subscribed(hub) as sink:
        await sink.ready()
        for number, (fault, _) in enumerate(REFUSALS.values()):
            if fault.status != 429 and "retry-after" not in fault.headers:  # the tail waits as long as these say
                upstash.faults.extend([fault, LOST_ANSWER, Fault(run=True, keep=100)])
            await eventually(lambda: not upstash.faults)
            await publish(publisher, number)
            await sink.has(number)
    assert sink.data == list(range(len(REFUSALS)))
    assert sink.gaps == []


async def test_the_tail_is_not_running_during_an_outage(upstash_store: UpstashStore, upstash: StandIn) -> None:
    """Later it has missed nothing."""
    log = upstash_store.open()
    async with tailing(log, await log.head(("all",))) as (received, tail):
        await publish(log, 1)
        await received.has(1)
        assert tail.running
        await asyncio.to_thread(upstash.stop)
        await eventually(lambda: not tail.running)
        await asyncio.to_thread(upstash.resume)
        await publish(upstash_store.open(), 2)
        await received.has(2)
        assert tail.running
    assert received.data == [1, 2]


async def test_during_a_refusal_the_tail_sends_nothing(log: UpstashRest, upstash: StandIn) -> None:
    upstash.stream_faults.append(NO_STREAM)
    async with tailing(log, await log.head(("all",))) as (received, tail):
        await publish(log, 1)
        await received.has(1)
        upstash.faults.append(Fault(429, {"retry-after": "1"}))
        await eventually(lambda: not tail.running)
        asked = len(upstash.requests)
        await eventually(lambda: log.session.seconds_held == 0)
        assert len(upstash.requests) == asked
        await eventually(lambda: tail.running)  # calls during its own attempt are refused at once
        await publish(log, 2)
        await received.has(2)
    assert received.data == [1, 2]


@pytest.mark.parametrize("counted_again", [0, 1, 2, 3])
async def test_an_older_state_is_a_gap_without_a_lost_connection(
    upstash_store: UpstashStore, monkeypatch: pytest.MonkeyPatch, counted_again: int
) -> None:
    monkeypatch.setattr("tidewire.transports.upstash.tail.VERIFY", 0.05)
    log = upstash_store.open()
    await publish(log, "a", "b")
    backup = await upstash_store.back_up()
    async with tailing(log, await log.head(("all",))) as (received, _):
        await publish(log, "lost 3", "lost 4")
        await received.has("lost 4")
        await backup()
        await publish(upstash_store.open(), *(f"other {number}" for number in range(3, 3 + counted_again)))
        await received.has("<epoch>")
        await publish(log, "end")
        await received.has("end")
    assert received.data[:3] == ["lost 3", "lost 4", "<epoch>"]
    assert received.data.count("<epoch>") == 1


async def test_a_replica_behind_the_head_loses_nothing(
    log: UpstashRest, upstash_store: UpstashStore, upstash: StandIn
) -> None:
    receipts = await publish(log, *range(1, 7))
    start = at(start_of(place(receipts[0])))
    for upstash.replica_offset in range(7):
        assert contents(await read(upstash_store.open(), start)) == [1, 2, 3, 4, 5, 6]  # a new log has no cached pages


async def test_a_replica_that_is_behind_only_delays_the_tail(log: UpstashRest, upstash: StandIn) -> None:
    upstash.replica_offset = 0
    async with tailing(log, await log.head(("all",))) as (received, _):
        await publish(log, 1, 2, 3)
        for upstash.replica_offset in (1, 2, 3):
            await received.has(upstash.replica_offset)
        await publish(log, 4)
        upstash.replica_offset = None
        await received.has(4)
    assert received.data == [1, 2, 3, 4]


async def test_each_request_carries_the_last_sync_token(log: UpstashRest, upstash: StandIn) -> None:
    for _ in range(3):
        await log.ping()
    assert [request.headers["upstash-sync-token"] for request in upstash.requests] == ["", "token-1", "token-2"]


async def test_no_telemetry_is_sent_and_no_base64_requested(log: UpstashRest, upstash: StandIn) -> None:
    await log.ping()
    (request,) = upstash.requests
    assert [name for name in request.headers if name.startswith("upstash-")] == ["upstash-sync-token"]


async def test_a_page_too_large_for_a_response_is_read_in_parts(log: UpstashRest, upstash: StandIn) -> None:
    upstash.most_bytes = 20_000
    before = await log.head(("all",))
    texts = [f"{number} " + "x" * 5_000 for number in range(30)]
    await publish(log, *texts)
    async with tailing(log, before) as (received, _):
        await received.has(texts[-1])
    assert received.data == texts
    assert contents(await read(log, before)) == texts


async def test_an_entry_too_large_for_a_response_is_an_error(log: UpstashRest, upstash: StandIn) -> None:
    """It is not requested again and again."""
    before = await log.head(("all",))
    await publish(log, "x" * 5_000)
    upstash.most_bytes = 1_000
    upstash.requests.clear()
    with pytest.raises(TransportUnavailable, match="max request size exceeded"):
        await read(log, before)
    assert len(upstash.requests) < 12


async def test_the_largest_event_comes_back_byte_for_byte(log: UpstashRest) -> None:
    text = '{"a": "é\\u2028\\ud83d\\ude00 \\"\\\\\\u0000", "n": 1.0, "e": 1e5, "big": 123456789012345678901234567890}'
    data = ('["' + '\\"é' * 65_000 + '", ' + text + "]").encode()
    assert 256_000 < len(data) <= 262_144
    json.loads(data)
    before = await log.head(("all",))
    largest = event("replaced")
    largest = type(largest)(largest.id, largest.type, data)
    async with tailing(log, before) as (received, _):
        await log.publish([largest])
        await received.until(lambda: bool(received.items))
    (replayed,) = await read(log, before)
    for item in (received.items[0], replayed):
        assert isinstance(item, Record)
        assert item.event.data == data
