"""CloudEvents 1.0 in its three HTTP modes, and out again with `format=cloudevents`."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import pytest
from tidewire.protocol.cloudevents import AUDIENCE

from tests.support.api import Api, check, pointers_of, problem_of, receipts_of, unique
from tests.support.processes import MakeInstance

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"


def attributes(**others: Any) -> dict[str, Any]:
    """A CloudEvent that may be published, with these members changed or added."""
    return {"specversion": "1.0", "id": unique("id"), "source": "/tasks", "type": unique(), **others}


def headers_of(values: Mapping[str, str]) -> dict[str, str]:
    """The headers of a CloudEvent in binary mode."""
    return {f"ce-{name}": quote(value, safe="/:") for name, value in values.items()}


def delivered(api: Api, kind: str, **params: str) -> list[dict[str, Any]]:
    """The events of a type as CloudEvents, each valid and without its audience."""
    events: list[dict[str, Any]] = api.page(types=kind, from_="earliest", format="cloudevents", **params)["events"]
    for event in events:
        check(event, "CloudEventOut")
    return events


def test_structured_mode_brings_every_attribute_through(any_api: Api) -> None:
    event = attributes(
        subject="task/7", time="2026-11-23T10:00:00.25+01:00", dataschema="https://s.example/1", trace="ab-cd", data=[7]
    )
    [receipt] = receipts_of(any_api.post(json.dumps(event).encode(), STRUCTURED))
    assert receipt["id"] == event["id"]
    assert delivered(any_api, event["type"]) == [{**event, "datacontenttype": "application/json"}]


def test_batched_mode_appends_all_events_in_order(api: Api) -> None:
    kind = unique()
    batch = [attributes(type=kind, data=n) for n in range(3)]
    receipts = receipts_of(api.post(json.dumps(batch).encode(), f"{BATCHED}; charset=UTF-8"))
    assert [receipt["id"] for receipt in receipts] == [event["id"] for event in batch]
    assert [event["data"] for event in delivered(api, kind)] == [0, 1, 2]


def test_binary_mode_reads_attributes_from_headers(any_api: Api) -> None:
    event = attributes(subject="Euro € 😀", comexample="a%b")
    response = any_api.post(b'{"id": 1.0}', "application/json; charset=utf-8", headers_of(event))
    assert receipts_of(response)[0]["id"] == event["id"]
    [arrived] = delivered(any_api, event["type"])
    assert {name: arrived[name] for name in event} == event
    assert arrived["data"] == {"id": 1}


def test_an_event_without_data_has_no_body_and_no_type(api: Api) -> None:
    """As SDKs send one in binary mode; a body that says to be JSON must be JSON."""
    event = attributes()
    assert len(receipts_of(api.post(b"", None, headers_of(event)))) == 1
    assert [found["data"] for found in delivered(api, event["type"])] == [None]
    problem_of(api.post(b"1", None, headers_of(event)), 415)
    problem_of(api.post(b"", None), 415)
    assert problem_of(api.post(b"", headers=headers_of(event)), 400)["detail"] == "The body is empty"


@pytest.mark.parametrize("kind", ["application/vnd.shop+json; charset=utf-8", "text/json"])
def test_the_data_of_binary_mode_is_json_by_any_name(api: Api, kind: str) -> None:
    event = attributes()
    assert len(receipts_of(api.post(b"[1]", kind, headers_of(event)))) == 1
    assert [found["data"] for found in delivered(api, event["type"])] == [[1]]
    problem_of(api.post(b"{}", kind), 415)


@pytest.mark.parametrize("mode", ["structured", "batched", "binary"])
def test_userids_is_the_audience_and_is_never_told(any_api: Api, mode: str) -> None:
    kind, user, other = unique(), unique("ü"), unique("u")
    event = attributes(type=kind, userids=f"{user}, {other},,{user}")
    if mode == "binary":
        response = any_api.post(b"1", headers=headers_of(event))
    elif mode == "structured":
        response = any_api.post(json.dumps(event).encode(), STRUCTURED)
    else:
        response = any_api.post(json.dumps([event]).encode(), BATCHED)
    assert response.status_code == 202, response.text
    assert [event["id"] for event in delivered(any_api, kind, userId=user)] == [event["id"]]
    assert [event["id"] for event in delivered(any_api, kind, userId=other)] == [event["id"]]
    assert delivered(any_api, kind, userId=unique("u")) == []
    assert delivered(any_api, kind) == []
    for format in ("data", "cloudevents"):
        page = any_api.get(params={"types": kind, "from": "earliest", "userId": user, "format": format})
        assert other not in page.text
        with any_api.stream(types=kind, from_="earliest", userId=user, format=format) as stream:
            stream.ready()
        assert other.encode() not in stream.raw


def test_ids_are_unique_within_their_source_only(api: Api) -> None:
    kind, id = unique(), unique("id")
    answers = [
        receipts_of(api.post(json.dumps(attributes(type=kind, id=id, source=source)).encode(), STRUCTURED))[0]
        for source in ("/a", "/b", "/a")
    ]
    assert [answer["duplicate"] for answer in answers] == [False, False, True]
    assert [event["source"] for event in delivered(api, kind)] == ["/a", "/b"]


def test_a_plain_event_becomes_a_valid_cloudevent(api: Api) -> None:
    kind = unique()
    [receipt] = api.publish({"type": kind, "data": {"id": 7}})
    [arrived] = delivered(api, kind)
    assert (arrived["id"], arrived["type"], arrived["source"]) == (receipt["id"], kind, "tidewire")


@pytest.mark.parametrize("name", ["userid", "user_ids", "topics"])
def test_nearly_the_audience_is_refused_with_the_right_name(api: Api, name: str) -> None:
    """With `userid`, one letter short of `userids`, the event was public."""
    before = api.head()
    structured = api.post(json.dumps(attributes(**{name: "u1"})).encode(), STRUCTURED)
    binary = api.post(b"1", headers={**headers_of(attributes()), f"ce-{name}": "u1"})
    for response in (structured, binary):
        problem = problem_of(response, 400)
        assert pointers_of(problem) == [f"/{name}"]
        assert AUDIENCE in problem["detail"]
    assert api.head() == before


@pytest.mark.parametrize("name", ["userids", "Users"])
def test_an_audience_in_headers_without_binary_mode_is_refused(api: Api, name: str) -> None:
    before = api.head()
    for body, kind in (
        ({"type": "t", "data": 1}, "application/json"),
        (attributes(), STRUCTURED),
        ([attributes()], BATCHED),
    ):
        response = api.post(json.dumps(body).encode(), kind, {f"ce-{name}": "u1"})
        assert pointers_of(problem_of(response, 400)) == [f"/{name.lower()}"]
        assert "ce-specversion" in response.text
    assert api.head() == before


@pytest.mark.parametrize("time", ["2026-11-23t10:00:00.123456789z", "2017-01-01t00:59:60.5+01:00"])
def test_every_form_of_an_rfc_3339_time_is_accepted(api: Api, time: str) -> None:
    """Of an event, where it arrives unchanged, and of a query."""
    event = attributes(time=time)
    receipts_of(api.post(json.dumps(event).encode(), STRUCTURED))
    [arrived] = api.get(params={"types": event["type"], "from": "earliest", "format": "cloudevents"}).json()["events"]
    assert arrived["time"] == time
    assert api.page(types=event["type"], from_=time)["events"]


def test_a_wrong_attribute_is_refused_and_named(api: Api) -> None:
    """In each mode; tests/unit/protocol/test_cloudevents.py has all the cases."""
    before = api.head()
    event = attributes(time="2026-02-30T10:00:00Z", subject="a\nb")
    pointers = ["/subject", "/time"]
    assert pointers_of(problem_of(api.post(json.dumps(event).encode(), STRUCTURED), 400)) == pointers
    batch = json.dumps([attributes(), event]).encode()
    assert pointers_of(problem_of(api.post(batch, BATCHED), 400)) == [f"/1{pointer}" for pointer in pointers]
    assert sorted(pointers_of(problem_of(api.post(b"1", headers=headers_of(event)), 400))) == pointers
    assert api.head() == before


def test_a_sender_may_ask_whether_it_may_send(api: Api, guarded: Api, hooked: Api) -> None:
    """Azure Event Grid sends nothing before this handshake was answered; a browser's preflight is another OPTIONS."""
    asked = {"webhook-request-origin": "eventemitter.example.com", "webhook-request-rate": "120"}
    for instance, path in ((api, "/api/publish"), (guarded, "/api/publish"), (hooked, "/api/webhooks/github")):
        response = instance.http.options(path, headers=asked)
        assert (response.status_code, response.content) == (200, b"")
        assert response.headers["webhook-allowed-origin"] == "eventemitter.example.com"
        assert response.headers["webhook-allowed-rate"] == "*"
        assert response.headers["allow"] == "POST"
        problem_of(instance.http.options(path), 405)
        problem_of(instance.http.options(path, headers={"webhook-request-origin": "a b"}), 400)
    problem_of(hooked.http.options("/api/webhooks/gitlab", headers=asked), 404)
    problem_of(api.http.options("/api/tokens", headers=asked), 405)
    problem_of(guarded.post(b'{"type": "t", "data": 1}', headers={"origin": "eventemitter.example.com"}), 401)


def test_the_handshake_names_the_rate_of_publishers(make_instance: MakeInstance) -> None:
    api = Api(make_instance(REALTIME_PUBLISH_RATE="5/2s"))
    response = api.http.options("/api/publish", headers={"webhook-request-origin": "e.example"})
    assert response.headers["webhook-allowed-rate"] == "150"
    api.close()


def test_a_repeated_ce_header_is_refused(api: Api) -> None:
    """A proxy and this server could read different ones."""
    headers = [("content-type", "application/json"), *headers_of(attributes(userids="u1")).items()]
    response = api.http.post("/api/publish", content=b"1", headers=[*headers, ("ce-userids", "u2")])
    assert pointers_of(problem_of(response, 400)) == ["/userids"]
