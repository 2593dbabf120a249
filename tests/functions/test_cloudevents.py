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


def test_binary_mode_undoes_the_quotes_that_older_senders_use(api: Api) -> None:
    event = attributes()
    api.post(b"1", headers={**headers_of(event), "ce-subject": r'"a \"b\" c"'})
    assert delivered(api, event["type"])[0]["subject"] == 'a "b" c'


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


def test_null_is_the_same_as_absent_and_no_data_is_null(api: Api) -> None:
    event = attributes(subject=None, time=None, userids=None, datacontenttype=None, trace=None)
    assert api.post(json.dumps(event).encode(), STRUCTURED).status_code == 202
    [arrived] = delivered(api, event["type"])
    assert arrived["data"] is None
    assert {"subject", "trace"}.isdisjoint(arrived)


def test_whole_numbers_and_booleans_arrive_as_text(api: Api) -> None:
    event = attributes(sequence=2147483647, minimum=-2147483648, final=True)
    api.post(json.dumps(event).encode(), STRUCTURED)
    [arrived] = delivered(api, event["type"])
    assert (arrived["sequence"], arrived["minimum"], arrived["final"]) == ("2147483647", "-2147483648", "true")


def test_a_plain_event_becomes_a_valid_cloudevent(api: Api) -> None:
    kind = unique()
    [receipt] = api.publish({"type": kind, "data": {"id": 7}})
    [arrived] = delivered(api, kind)
    assert (arrived["id"], arrived["type"], arrived["source"]) == (receipt["id"], kind, "tidewire")


WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "specversion of another version": ({"specversion": "0.3"}, ["/specversion"]),
    "specversion as a number": ({"specversion": 1.0}, ["/specversion"]),
    "no id": ({"id": None}, ["/id"]),
    "an id that is a number": ({"id": 5}, ["/id"]),
    "an id with a space": ({"id": "a b"}, ["/id"]),
    "an empty source": ({"source": ""}, ["/source"]),
    "no type": ({"type": None}, ["/type"]),
    "a reserved type": ({"type": "realtime.gap"}, ["/type"]),
    "a type of EventSource's own": ({"type": "error"}, ["/type"]),
    "data_base64": ({"data_base64": "AA=="}, ["/data_base64"]),
    "xml": ({"datacontenttype": "application/xml"}, ["/datacontenttype"]),
    "a time without a zone": ({"time": "2026-11-23T10:00:00"}, ["/time"]),
    "a day that is none": ({"time": "2026-02-30T10:00:00Z"}, ["/time"]),
    "a time that is a number": ({"time": 5}, ["/time"]),
    "an upper-case name": ({"userIds": "u1"}, ["/userIds"]),
    "a name to escape": ({"a/b~c": "x"}, ["/a~1b~0c"]),
    "a name too long to repeat": ({"n" * 65: "x"}, [""]),
    "an object": ({"trace": {}}, ["/trace"]),
    "a fraction": ({"trace": 1.5}, ["/trace"]),
    "33 bits": ({"trace": 2**31}, ["/trace"]),
    "too long": ({"subject": "s" * 1_025}, ["/subject"]),
    "too many": ({f"x{n}": "" for n in range(29)}, [""]),
    "an audience of nobody": ({"userids": " , "}, ["/userids"]),
    "an empty audience": ({"userids": ""}, ["/userids"]),
    "an audience that is a list": ({"userids": ["u1"]}, ["/userids"]),
    "an audience that is a number": ({"userids": 5}, ["/userids"]),
    "an audience that is true": ({"userids": True}, ["/userids"]),
    "an audience too large": ({"userids": ",".join(map(str, range(1_001)))}, ["/userids"]),
}


NEARLY = [
    *(
        "userid",
        "usersids",
        "useids",
        "userdis",
        "usserids",
        "users",
        "user",
        "userIds",
        "user_ids",
        "user-ids",
        "UserIDs",
    ),
    *("usersid", "uids", "useridlist", "recipients", "audience", "topic", "topics", "Topics"),
]


@pytest.mark.parametrize("name", NEARLY)
def test_nearly_the_audience_is_refused_and_the_right_name_told(api: Api, name: str) -> None:
    """With `userid`, one letter short of `userids`, the event was public."""
    before = api.head()
    structured = api.post(json.dumps(attributes(**{name: "u1"})).encode(), STRUCTURED)
    responses = [structured]
    if name.lower() != AUDIENCE:  # the name of a header has no case
        responses.append(api.post(b"1", headers={**headers_of(attributes()), f"ce-{name}": "u1"}))
    for response in responses:
        problem = problem_of(response, 400)
        assert [pointer.lower() for pointer in pointers_of(problem)] == [f"/{name.lower()}"]
        assert AUDIENCE in problem["detail"]
    plain = problem_of(api.post(json.dumps({"type": "t", "data": 1, name: "u1"}).encode()), 400)
    assert pointers_of(plain) == [f"/{name}"]
    assert api.head() == before


@pytest.mark.parametrize("name", ["userids", "topics", "userid", "Users"])
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


@pytest.mark.parametrize("name", ["userkind", "useragent", "subject", "partitionkey", "traceparent", "authid", "optic"])
def test_an_attribute_that_is_not_near_the_audience_is_taken(api: Api, name: str) -> None:
    receipts_of(api.post(json.dumps(attributes(**{name: "x"})).encode(), STRUCTURED))


TIMES = [
    "2026-11-23t10:00:00z",
    "2026-11-23T10:00:00.123456789z",
    "2016-12-31T23:59:60Z",
    "2017-01-01t00:59:60.5+01:00",
]


@pytest.mark.parametrize("time", TIMES)
def test_every_form_of_an_rfc_3339_time_is_taken(api: Api, time: str) -> None:
    event = attributes(time=time)
    receipts_of(api.post(json.dumps(event).encode(), STRUCTURED))
    [arrived] = api.get(params={"types": event["type"], "from": "earliest", "format": "cloudevents"}).json()["events"]
    assert arrived["time"] == time
    assert api.page(types=event["type"], from_=time)["events"]


@pytest.mark.parametrize(
    "time", ["2016-12-31T23:58:60Z", "2016-12-31T23:59:61Z", "2016-12-31T23:59:60+01:00", "24:00:00Z"]
)
def test_a_second_that_never_was_is_refused(api: Api, time: str) -> None:
    problem_of(api.post(json.dumps(attributes(time=time)).encode(), STRUCTURED), 400)
    problem_of(api.get(params={"from": time}), 400)


@pytest.mark.parametrize(("change", "pointers"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_attribute_is_refused_and_named(api: Api, change: dict[str, Any], pointers: list[str]) -> None:
    before = api.head()
    event = attributes(**change)
    single = problem_of(api.post(json.dumps(event).encode(), STRUCTURED), 400)
    batch = problem_of(api.post(json.dumps([attributes(), event]).encode(), BATCHED), 400)
    assert pointers_of(single) == pointers
    assert pointers_of(batch) == [f"/1{pointer}" for pointer in pointers]
    assert api.head() == before


def test_a_number_with_thousands_of_digits_is_refused(api: Api) -> None:
    """An integer that Python refuses to convert must be a 400, not a 500."""
    event = json.dumps(attributes())[:-1] + f', "sequence": {"9" * 5_000}}}'
    assert pointers_of(problem_of(api.post(event.encode(), STRUCTURED), 400)) == ["/sequence"]


def test_one_event_is_no_batch_and_a_batch_is_not_one_event(api: Api) -> None:
    event = json.dumps(attributes()).encode()
    problem_of(api.post(event, BATCHED), 400)
    problem_of(api.post(b"[%b]" % event, STRUCTURED), 400)
    problem_of(api.post(b"[]", BATCHED), 400)
    assert pointers_of(problem_of(api.post(b"[%b, 5]" % event, BATCHED), 400)) == ["/1"]


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


def test_data_as_a_header_would_stand_beside_the_real_data(api: Api) -> None:
    event = attributes(data="forged")
    assert pointers_of(problem_of(api.post(b'"real"', headers=headers_of(event)), 400)) == ["/data"]


@pytest.mark.parametrize("value", ["%ff", "%C0%A0", "%ED%A0%80", "Zo\xeb"])
def test_a_header_that_is_no_percent_encoded_utf_8_names_nobody(api: Api, value: str) -> None:
    headers = {**headers_of(attributes()), "ce-userids": value}
    assert pointers_of(problem_of(api.post(b"1", headers=headers), 400)) == ["/userids"]


def test_a_repeated_ce_header_is_refused(api: Api) -> None:
    """A proxy and this server could read different ones."""
    headers = [("content-type", "application/json"), *headers_of(attributes(userids="u1")).items()]
    response = api.http.post("/api/publish", content=b"1", headers=[*headers, ("ce-userids", "u2")])
    assert pointers_of(problem_of(response, 400)) == ["/userids"]
