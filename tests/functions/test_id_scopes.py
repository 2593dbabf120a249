"""What an id suppresses: a second publication of the same type, source and id, and nothing else."""

import json
from typing import Any

import pytest

from tests.functions.test_cloudevents import BATCHED, STRUCTURED, attributes, headers_of
from tests.functions.test_webhooks import send
from tests.support.api import Api, pointers_of, problem_of, receipts_of, unique
from tests.support.tokens import LIMITED_KEY, PUBLISH_KEY, user_token
from tests.unit.ingest.webhooks.example import PAYLOADS


def test_a_limited_key_suppresses_no_event_of_another_type(guarded: Api) -> None:
    """A key for `task-*` published with the id `order-1047-paid`: the real event was a duplicate, never delivered."""
    id = unique("order")
    guarded.acting(key=LIMITED_KEY).publish({"type": "task-updated", "id": id, "data": "first"})
    (receipt,) = guarded.acting(key=PUBLISH_KEY).publish({"type": "order-paid", "id": id, "data": "real"})
    assert receipt["duplicate"] is False
    reader = guarded.acting(token=user_token("u1"))
    assert [e["data"] for e in reader.page(types="order-paid", from_="earliest")["events"] if e["id"] == id] == ["real"]


def test_a_retry_with_a_rotated_key_is_a_duplicate(guarded: Api) -> None:
    event = {"type": unique(), "id": unique(), "data": 1}
    (first,) = guarded.acting(key=PUBLISH_KEY).publish(event)
    (again,) = guarded.acting(key="another-key-of-ours").publish(event)
    assert (first["duplicate"], again["duplicate"]) == (False, True)
    assert again["cursor"] == first["cursor"]


def test_an_id_twice_in_a_batch_is_two_events_with_two_types(any_api: Api) -> None:
    one, two, id = unique(), unique(), unique()
    receipts = any_api.publish(*({"type": type, "id": id, "data": n} for n, type in enumerate((one, two, one))))
    assert [receipt["duplicate"] for receipt in receipts] == [False, False, True]


def test_an_idempotency_key_counts_within_the_type(any_api: Api) -> None:
    one, two, key = unique(), unique(), unique()
    for type, duplicate in ((one, False), (two, False), (one, True)):
        (receipt,) = any_api.publish({"type": type, "data": 1}, **{"idempotency-key": key})
        assert receipt["duplicate"] is duplicate


@pytest.mark.parametrize("source", ["/webhooks/github", "/webhooks/"])
def test_the_sources_of_webhooks_are_the_receivers_alone(api: Api, source: str) -> None:
    event = attributes(source=source)
    before = api.head()
    single = api.post(json.dumps(event).encode(), STRUCTURED)
    batch = api.post(json.dumps([attributes(), event]).encode(), BATCHED)
    for response, pointer in (
        (single, "/source"),
        (batch, "/1/source"),
        (api.post(b"1", headers=headers_of(event)), "/source"),
    ):
        assert pointers_of(problem_of(response, 400)) == [pointer]
    assert api.head() == before
    receipts_of(api.post(json.dumps(attributes(source="/webhook/github")).encode(), STRUCTURED))


def test_nothing_that_is_published_suppresses_a_delivery(hooked: Api) -> None:
    """With the delivery's own id, in every form that a publisher can send."""
    id = unique("delivery")
    body = (PAYLOADS / "github" / "issues.json").read_bytes()
    forms: list[dict[str, Any]] = [{"source": s} for s in ("webhooks/github", "/WEBHOOKS/github", " /webhooks/github")]
    for form in forms:
        event = attributes(type="issue-edited", id=id, **form)
        receipts_of(hooked.post(json.dumps(event).encode(), STRUCTURED))
    hooked.publish({"type": "issue-edited", "id": id, "data": 1})
    headers = {"x-github-event": "issues"}
    first, again = (receipts_of(send(hooked, "github", body, id, headers)) for _ in range(2))
    assert [receipt["duplicate"] for receipt in (*first, *again)] == [False, True]
