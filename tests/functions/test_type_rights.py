"""Keys and tokens limited to event types or prefixes: the same rules on every way in and out."""

import json
from typing import Any

from tests.support.api import Api, data_of, problem_of, unique
from tests.support.tokens import LIMITED_KEY, PUBLISH_KEY, user_token


def answer(api: Api, key: str, *types: str) -> int:
    events = [{"type": kind, "data": 1} for kind in types]
    return api.acting(key=key).post(json.dumps(events).encode()).status_code


def test_a_limited_key_publishes_only_its_types(guarded: Api) -> None:
    """A batch with one other type is refused as a whole."""
    reader = guarded.acting(token=user_token("u1"))
    assert answer(guarded, LIMITED_KEY, "task-updated", "task-", "deploy-ready") == 202
    before = reader.head()
    for types in (("task",), ("deploy-ready-2",), ("Task-updated",), ("task-updated", "other"), ("xtask-updated",)):
        assert answer(guarded, LIMITED_KEY, *types) == 403
    assert reader.head() == before
    refused = guarded.acting(key=LIMITED_KEY).post(b'{"type": "other", "data": "private"}')
    assert "'other'" in problem_of(refused, 403)["detail"]
    assert refused.headers["www-authenticate"] == 'Bearer realm="tidewire", error="insufficient_scope"'
    assert answer(guarded, PUBLISH_KEY, "other") == 202


def test_a_limit_holds_for_every_form_of_an_event(guarded: Api) -> None:
    publisher = guarded.acting(key=LIMITED_KEY)
    whole = {"specversion": "1.0", "id": unique(), "source": "/s", "type": "other", "data": 1}
    structured = publisher.post(json.dumps(whole).encode(), "application/cloudevents+json")
    batched = publisher.post(json.dumps([whole]).encode(), "application/cloudevents-batch+json")
    binary = {"ce-specversion": "1.0", "ce-id": unique(), "ce-source": "/s", "ce-type": "other"}
    for response in (structured, batched, publisher.post(b"1", headers=binary)):
        problem_of(response, 403)
    assert publisher.post(b"1", headers={**binary, "ce-type": "task-1"}).status_code == 202


def test_a_pattern_in_a_token_limits_every_way_to_read(locked: Api) -> None:
    """Live, on replay and on a page."""
    publisher, user, kind = locked.acting(key=PUBLISH_KEY), unique("u"), unique("task")
    allowed = [f"{kind}*", f"exact-{kind}"]
    reader = locked.acting(token=user_token(user, types=allowed))
    start = reader.head()

    def tell(label: str) -> None:
        types = (kind, f"{kind}-x", f"x{kind}", f"exact-{kind}", f"exact-{kind}-x", kind[:-1], "other", f"{kind}-end")
        publisher.publish(*({"type": of, "data": f"{label} {of}", "userIds": [user]} for of in types))

    def expected(label: str) -> list[Any]:
        return [f"{label} {of}" for of in (kind, f"{kind}-x", f"exact-{kind}", f"{kind}-end")]

    tell("before")
    with reader.stream({"last-event-id": start}) as stream:
        assert data_of(stream.ready()) == expected("before")
        tell("live")
        assert data_of(stream.until(f"{kind}-end")) == expected("live")
    page = reader.page(last_event_id=start)
    assert [event["data"] for event in page["events"]] == [*expected("before"), *expected("live")]
    with reader.stream({"last-event-id": start}, types=f"{kind}-x") as stream:
        assert data_of(stream.ready()) == [f"before {kind}-x", f"live {kind}-x"]
    for types in (f"x{kind}", f"{kind}-x,other", f"exact-{kind}-x"):
        problem_of(reader.get(params={"types": types}), 403)


def test_a_token_of_all_types_by_pattern_is_one_without_a_limit(guarded: Api) -> None:
    kind = unique()
    with guarded.acting(token=user_token("u1", types=["*", "a", "b*"])).stream() as stream:
        stream.ready()
        guarded.acting(key=PUBLISH_KEY).publish({"type": kind, "data": 1})
        assert stream.until(kind)[-1].data == "1"
