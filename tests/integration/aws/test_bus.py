"""REALTIME_TRANSPORT=eventbridge: published events are on the bus; the response names those that are not."""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tidewire.delivery.hub import Hub
from tidewire.errors import ContentTooLarge, SettingsError, TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.event import Event
from tidewire.primitives import aws_clients
from tidewire.primitives.backoff import Backoff
from tidewire.protocol import eventbridge_event
from tidewire.protocol.sse import DATA
from tidewire.protocol.subscribe_request import parse_subscribe_request
from tidewire.settings.config import Settings
from tidewire.transports import eventbridge
from tidewire.transports.eventbridge import MAX_REQUEST_BYTES, EventBridge, batches, size_of
from tidewire.wiring import make_transport

from tests.integration.aws.conftest import REGION, Queue


def event(number: int, data: bytes = b'{"a": 1.0}', **more: Any) -> Event:
    return Event(f"id-{number}", "task-updated", data, **more)


class Flaky:
    """A client that refuses some entries some of the time, and passes everything else on."""

    def __init__(self, refusals: Mapping[str, Sequence[str]], raising: Sequence[int] = ()) -> None:
        self._client = aws_clients.client("events")
        self._refusals = {id: list(codes) for id, codes in refusals.items()}
        self._raising = set(raising)
        self.calls: list[list[str]] = []

    def put_events(self, Entries: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803 — boto3's own name
        ids = [json.loads(entry["Detail"])["id"] for entry in Entries]
        self.calls.append(ids)
        if len(self.calls) in self._raising:
            self._client.describe_event_bus(Name="no-such-bus")  # raises
        codes = [self._refusals[id].pop(0) if self._refusals.get(id) else None for id in ids]
        taken = [entry for entry, code in zip(Entries, codes, strict=True) if code is None]
        results = iter(self._client.put_events(Entries=taken)["Entries"] if taken else ())
        return {
            "FailedEntryCount": sum(code is not None for code in codes),
            "Entries": [next(results) if code is None else {"ErrorCode": code} for code in codes],
        }


@pytest.fixture
def transport() -> EventBridge:
    return EventBridge("events", "tidewire", REGION)


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "next", lambda _: 0.0)


async def test_a_large_batch_reaches_the_bus_unchanged(transport: EventBridge, target: Queue) -> None:
    data = [b'{"id": %d, "n": 1.0, "big": 123456789012345678901234567890, "e": "\\u00e9"}' % n for n in range(25)]
    receipts = await transport.publish([event(n, data[n], user_ids=("u1", "ü")) for n in range(25)])
    assert [receipt.id for receipt in receipts] == [f"id-{n}" for n in range(25)]
    assert all(receipt.positions is None and not receipt.duplicate for receipt in receipts)
    handed = target.bodies()
    assert {(payload["source"], payload["detail-type"]) for payload in handed} == {("tidewire", "task-updated")}
    arrived = {received.id: received for received in map(eventbridge_event.from_payload, handed)}
    assert {id: received.data for id, received in arrived.items()} == {f"id-{n}": data[n] for n in range(25)}
    assert all(received.user_ids == ("u1", "ü") for received in arrived.values())


def test_requests_stay_within_the_limits_of_the_bus() -> None:
    entry = {"Source": "s", "DetailType": "ü", "Detail": '{"a":"€"}', "EventBusName": "not counted"}
    assert size_of(entry) == 1 + 2 + 11

    def sizes(lengths: Sequence[int]) -> list[list[int]]:
        entries = {n: {"Source": "", "DetailType": "", "Detail": "x" * size} for n, size in enumerate(lengths)}
        return [[size_of(entry) for entry in batch.values()] for batch in batches(entries)]

    half = (MAX_REQUEST_BYTES + 1) // 2
    assert MAX_REQUEST_BYTES == 1024 * 1024 - 1, "less than 1 MB"
    assert sizes([half, half - 1, 5]) == [[half, half - 1], [5]]
    assert sizes([half, half]) == [[half], [half]]
    assert [len(batch) for batch in sizes([1] * 21)] == [10, 10, 1]
    assert sizes([]) == []


async def test_an_oversized_event_stops_the_whole_batch(transport: EventBridge, target: Queue) -> None:
    """Before any event of the batch is sent."""
    wide = event(1, attributes={"a": "x" * MAX_REQUEST_BYTES})
    with pytest.raises(ContentTooLarge, match="less than 1 MB") as caught:
        await transport.publish([event(0), wide])
    assert [pointer for pointer, _ in caught.value.errors] == ["/1"]
    assert target.bodies() == []


async def test_only_refused_entries_are_sent_again(
    transport: EventBridge, target: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = Flaky({"id-1": ["ThrottlingException"], "id-11": ["InternalFailure", "ThrottlingException"]})
    monkeypatch.setattr(aws_clients, "client", lambda *_: flaky)
    await transport.publish([event(n) for n in range(12)])
    assert flaky.calls[2:] == [["id-1", "id-11"], ["id-11"]]
    assert sorted(payload["detail"]["id"] for payload in target.bodies()) == sorted(f"id-{n}" for n in range(12))


async def test_a_final_failure_names_each_event(
    transport: EventBridge, target: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    always = list(itertools.repeat("ThrottlingException", eventbridge.ROUNDS))
    flaky = Flaky({"id-3": always, "id-5": ["NotAuthorizedForSourceException"]})
    monkeypatch.setattr(aws_clients, "client", lambda *_: flaky)
    with pytest.raises(TransportUnavailable, match="did not accept 2 of 7 events") as caught:
        await transport.publish([event(n) for n in range(7)])
    assert caught.value.errors == (("/3", "ThrottlingException"), ("/5", "NotAuthorizedForSourceException"))
    assert flaky.calls[1:] == [["id-3"]] * (eventbridge.ROUNDS - 1), "what is refused for good is not sent again"
    assert sorted(payload["detail"]["id"] for payload in target.bodies()) == ["id-0", "id-1", "id-2", "id-4", "id-6"]


async def test_a_failed_request_names_every_unsent_event(
    transport: EventBridge, target: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky = Flaky({}, raising=[2])
    monkeypatch.setattr(aws_clients, "client", lambda *_: flaky)
    with pytest.raises(TransportUnavailable) as caught:
        await transport.publish([event(n) for n in range(25)])
    assert [pointer for pointer, _ in caught.value.errors] == [f"/{n}" for n in range(10, 25)]
    assert {code for _, code in caught.value.errors} == {"ResourceNotFoundException"}
    assert len(flaky.calls) == 2
    assert len(target.bodies()) == 10


async def test_a_missing_bus_fails_readiness_and_publishing(target: Queue) -> None:
    await EventBridge("events", "tidewire", REGION).ping()
    await EventBridge("default", "tidewire", REGION).ping()
    with pytest.raises(TransportUnavailable, match="ResourceNotFoundException"):
        await EventBridge("elsewhere", "tidewire", REGION).ping()


async def test_a_network_error_hides_the_driver_s_text(transport: EventBridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_clients, "TRIES", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9/hunter2")
    with pytest.raises(TransportUnavailable, match="EndpointConnectionError") as caught:
        await transport.publish([event(0)])
    assert "hunter2" not in str(caught.value)
    assert caught.value.errors == (("", "EndpointConnectionError"),)


def test_a_process_with_streams_must_name_the_log() -> None:
    settings = Settings.from_env({"REALTIME_TRANSPORT": "eventbridge", "REALTIME_AUTH": "none", "AWS_REGION": REGION})
    with pytest.raises(SettingsError, match="REALTIME_TRANSPORT: eventbridge is for functions that publish"):
        make_transport(settings)
    assert isinstance(make_transport(settings, stateless=True), EventBridge)


async def test_a_subscriber_is_refused_and_not_left_waiting(transport: EventBridge) -> None:
    async with Hub(transport) as hub:
        with pytest.raises(TransportUnavailable, match="read that log instead"):
            await hub.add(Interest(None, None), parse_subscribe_request(b"", {}).start, DATA)
