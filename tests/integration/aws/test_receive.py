"""functions/receive.py: each bus event is in the log once, or with its reason in the dead-letter queue."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tidewire.errors import InvalidRequest, SettingsError, TransportUnavailable
from tidewire.model.event import Event
from tidewire.model.partitions import ALL
from tidewire.model.record import Record
from tidewire.transports.redis.streams import RedisStreams

from functions import publish, receive
from tests.integration.aws.conftest import REGION, LoadPayload, Queue
from tests.support.processes import MakeRedis

Handle = Callable[[Any], dict[str, Any]]

RULES = """
[eventbridge."aws.s3"]

[[eventbridge."aws.s3".events]]
when = "\\"detail-type\\" == 'Object Created'"
type = "upload-finished"
userIds = "detail.object.key"
data = "detail.object"
"""


@pytest.fixture(autouse=True)
def settings(redis_url: str, dead_letters: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "realtime.toml").write_text(RULES)
    monkeypatch.setenv("REALTIME_TRANSPORT", "redis")
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("REALTIME_AUTH", "none")
    monkeypatch.setenv("REALTIME_CONFIG", str(tmp_path / "realtime.toml"))
    monkeypatch.setenv("REALTIME_DEAD_LETTER_QUEUE", dead_letters.url)


@pytest.fixture
def handle() -> Handle:
    return lambda payload: receive.handler(payload, None)


def kept(redis_url: str) -> list[Event]:
    """What the log holds."""

    async def read() -> list[Event]:
        log = RedisStreams(redis_url)
        try:
            start, head = await log.seek([ALL], None), await log.head([ALL])
            return [record.event async for record in log.replay(start, head) if isinstance(record, Record)]
        finally:
            await log.aclose()

    return asyncio.run(read())


def test_a_repeated_bus_event_is_appended_once(
    handle: Handle, payload: LoadPayload, redis_url: str, dead_letters: Queue
) -> None:
    own = payload("eventbridge/own_event")
    assert [handle(own)["events"][0]["duplicate"] for _ in range(3)] == [False, True, True]
    (event,) = kept(redis_url)
    assert event == Event(own["detail"]["id"], "task-updated", b'{"id": 7, "rate": 1.0}', ("u1", "u2"))
    assert dead_letters.take() == []


def test_an_event_without_an_id_gets_the_bus_event_s_id(handle: Handle, payload: LoadPayload, redis_url: str) -> None:
    own = payload("eventbridge/application_event")
    assert [handle(own)["events"][0]["duplicate"] for _ in range(2)] == [False, True]
    assert kept(redis_url) == [Event(own["id"], "order-paid", b'{"order":4711,"paid":true}', ("u1",))]


def test_a_published_event_crosses_the_bus_unchanged(
    handle: Handle, target: Queue, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REALTIME_TRANSPORT", "eventbridge")
    monkeypatch.setenv("REALTIME_EVENT_BUS", "events")
    data = '{"n": 1.0, "big": 123456789012345678901234567890, "quote": "\\u00fc\\""}'
    request = {
        "version": "2.0",
        "rawPath": "/api/publish",
        "rawQueryString": "",
        "headers": {"content-type": "application/json"},
        "requestContext": {"http": {"method": "POST", "path": "/api/publish", "sourceIp": "192.0.2.1"}},
        "body": f'{{"type": "task-updated", "id": "mine", "userIds": ["ü"], "data": {data}}}',
        "isBase64Encoded": False,
    }
    answer = publish.handler(request, None)
    assert answer["statusCode"] == 202, answer
    assert json.loads(answer["body"])["events"] == [{"id": "mine", "cursor": None, "duplicate": False}]
    monkeypatch.setenv("REALTIME_TRANSPORT", "redis")
    for bus_event in target.bodies():
        handle(bus_event)
    assert kept(redis_url) == [Event("mine", "task-updated", data.encode(), ("ü",))]


def test_an_aws_event_is_mapped_by_rules_and_appended_once(
    handle: Handle, payload: LoadPayload, redis_url: str, dead_letters: Queue
) -> None:
    created = payload("eventbridge/s3_object_created")
    assert [handle(created)["events"][0]["duplicate"] for _ in range(2)] == [False, True]
    (event,) = kept(redis_url)
    assert (event.id, event.type, event.user_ids) == (created["id"], "upload-finished", ("u1/report.pdf",))
    assert json.loads(event.data) == created["detail"]["object"]
    assert handle({**created, "detail-type": "Object Deleted"}) == {"events": []}, "no rule counts it"
    assert dead_letters.take() == []


def test_half_a_character_of_another_source_is_replaced(
    handle: Handle, payload: LoadPayload, redis_url: str, dead_letters: Queue
) -> None:
    created = payload("eventbridge/s3_object_created")
    created["detail"]["object"]["key"] = "cut \ud83d, whole \U0001f600"
    handle(created)
    (event,) = kept(redis_url)
    assert event.user_ids == ("cut \ufffd, whole \U0001f600",)
    assert dead_letters.take() == []


def _change(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda own: {**own, "detail": {**own["detail"], **changes}}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_change(userId="u1"), "userId"),
        (_change(dataText='"' + "x" * 262_144 + '"'), "256 KiB"),
        (_change(dataText=None, data="\ud800"), "surrogate"),
        (lambda own: {**own, "detail": "text"}, "not a Tidewire event"),
        (lambda own: {**own, "source": "my.billing"}, "has no rules for this source"),
        (lambda own: {**own, "source": "aws.s3", "detail-type": "Object Created"}, "does not fit"),
        (lambda own: {"detail": own["detail"]}, "has no source"),
        (lambda own: [own], "not an EventBridge event"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_dead_letter_has_the_reason_and_blocks_nothing(
    spoil: Callable[[dict[str, Any]], Any],
    reason: str,
    handle: Handle,
    payload: LoadPayload,
    redis_url: str,
    dead_letters: Queue,
) -> None:
    own = payload("eventbridge/own_event")
    spoilt = spoil(own)
    assert handle(spoilt) == {"events": []}
    (message,) = dead_letters.take()
    assert json.loads(message["Body"]) == spoilt
    assert reason in message["MessageAttributes"]["ERROR_MESSAGE"]["StringValue"]
    assert message["MessageAttributes"]["ERROR_CODE"]["StringValue"] in ("Invalid", "TooLarge")
    handle(own)
    assert [event.id for event in kept(redis_url)] == [own["detail"]["id"]]


def test_without_the_log_an_event_is_retried(
    handle: Handle, payload: LoadPayload, dead_letters: Queue, make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is neither lost nor a dead letter."""
    redis = make_redis()
    monkeypatch.setenv("REDIS_URL", redis.url)
    own = payload("eventbridge/own_event")
    handle(payload("eventbridge/application_event"))
    redis.stop()
    with pytest.raises(TransportUnavailable):
        handle(own)  # so that it is invoked again
    redis.start()
    assert handle(own)["events"][0]["duplicate"] is False
    assert len(kept(redis.url)) == 2
    assert dead_letters.take() == []


def test_without_the_queue_a_dead_letter_is_retried(
    handle: Handle, payload: LoadPayload, dead_letters: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = {**payload("eventbridge/own_event"), "detail": 1}
    dead_letters.sqs.delete_queue(QueueUrl=dead_letters.url)
    with pytest.raises(Exception, match="dead-letter queue cannot be used"):
        handle(poison)
    receive.handler.close()
    monkeypatch.delenv("REALTIME_DEAD_LETTER_QUEUE")
    with pytest.raises(InvalidRequest):
        handle(poison)


def _sqs(*bodies: str) -> dict[str, Any]:
    return {
        "Records": [
            {"messageId": f"m{n}", "body": body, "eventSource": "aws:sqs", "awsRegion": REGION}
            for n, body in enumerate(bodies)
        ]
    }


def test_dead_letters_in_every_form_can_be_redriven(
    handle: Handle,
    payload: LoadPayload,
    redis_url: str,
    dead_letters: Queue,
    make_redis: MakeRedis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A message that fails again stays in the queue alone."""
    failed = payload("eventbridge/lambda_failed_invocation")
    bodies = [json.dumps(payload("eventbridge/application_event")), json.dumps(failed), "no JSON"]
    assert handle(_sqs(*bodies)) == {"batchItemFailures": []}
    assert [event.data for event in kept(redis_url)] == [b'{"order":4711,"paid":true}', b"7"]
    assert [message["Body"] for message in dead_letters.take()] == ['"no JSON"']

    receive.handler.close()
    redis = make_redis()
    monkeypatch.setenv("REDIS_URL", redis.url)
    redis.stop()
    assert handle(_sqs(*bodies))["batchItemFailures"] == [{"itemIdentifier": "m0"}, {"itemIdentifier": "m1"}]
    assert len(dead_letters.take()) == 1, "the one that is no event"


@pytest.mark.parametrize("transport", ["memory", "eventbridge"])
def test_a_target_that_would_lose_events_does_not_start(
    transport: str, handle: Handle, payload: LoadPayload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REALTIME_TRANSPORT", transport)
    with pytest.raises(SettingsError, match="REALTIME_TRANSPORT: must name the log"):
        handle(payload("eventbridge/own_event"))


def test_a_misspelt_rule_stops_the_start_with_its_path(handle: Handle, payload: LoadPayload, tmp_path: Path) -> None:
    (tmp_path / "realtime.toml").write_text(RULES.replace("userIds", "userId"))
    with pytest.raises(SettingsError, match=r"realtime\.toml: eventbridge\.\S+\.userId is unknown"):
        handle(payload("eventbridge/own_event"))
