"""A malformed body is a problem response, costs little, and appends nothing."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.api import Api, pointers_of, problem_of

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"
DEEP = 100_000


@pytest.fixture(autouse=True)
def nothing_is_appended(api: Api) -> Iterator[None]:
    before = api.head()
    yield
    assert api.head() == before
    assert api.http.get("/api/health/live").status_code == 200


def event(**fields: Any) -> bytes:
    return json.dumps({"type": "t", "data": 1, **fields}).encode()


NOT_JSON = {
    "an empty body": b"",
    "a key twice": b'{"type": "t", "data": 1, "userIds": ["u1"], "userIds": null}',
    "half a character in a user": rb'{"type": "t", "data": 1, "userIds": ["\udead"]}',
}


@pytest.mark.parametrize("content_type", ["application/json", STRUCTURED, BATCHED])
@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_a_body_that_readers_could_read_differently_is_refused(api: Api, body: bytes, content_type: str) -> None:
    """tests/unit/protocol/test_strict_json.py has all the cases."""
    problem_of(api.post(body, content_type), 400)


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_the_data_of_a_binary_cloudevent_is_json_as_strict(api: Api, body: bytes) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}
    problem_of(api.post(body, headers=headers), 400)


NESTED = {
    "arrays as data": b'{"type": "t", "data": %b1%b}' % (b"[" * DEEP, b"]" * DEEP),
    "objects that never end": b'{"a":' * DEEP,
}


@pytest.mark.parametrize("body", NESTED.values(), ids=NESTED.keys())
def test_deep_nesting_is_refused_before_anything_recurses(api: Api, body: bytes) -> None:
    problem_of(api.post(body), 400)
    problem_of(api.post(body, BATCHED), 400)


WRONG_FIELDS: dict[str, tuple[bytes, list[str]]] = {
    "userId for userIds, which would reach everyone": (event(userId="u1"), ["/userId"]),
    "several at once": (event(type="", id="", userIds=["", "\n"]), ["/type", "/id", "/userIds/0", "/userIds/1"]),
}


@pytest.mark.parametrize(("body", "pointers"), WRONG_FIELDS.values(), ids=WRONG_FIELDS.keys())
def test_a_wrong_field_is_pointed_at_alone_and_in_a_batch(api: Api, body: bytes, pointers: list[str]) -> None:
    problem = problem_of(api.post(body), 400)
    assert pointers_of(problem) == pointers
    assert len(problem["detail"]) < 300
    batch = problem_of(api.post(b"[%b, %b]" % (event(), body)), 400)
    assert pointers_of(batch) == [f"/1{pointer}" for pointer in pointers]


def test_no_event_and_too_many_are_refused(api: Api) -> None:
    assert pointers_of(problem_of(api.post(b"[]"), 400)) == [""]
    assert pointers_of(problem_of(api.post(b"[%b]" % b",".join([event()] * 101)), 400)) == [""]


def test_an_answer_tells_of_a_hundred_errors_and_no_more(api: Api) -> None:
    batch = b"[%b]" % b",".join([event(userIds=[""] * 1_000)] * 100)
    response = api.post(batch)
    assert len(pointers_of(problem_of(response, 400))) == 100
    assert len(response.content) < 20_000


def test_an_event_above_its_limit_is_too_large(api: Api) -> None:
    large = event(data="x" * (256 * 1024))
    assert pointers_of(problem_of(api.post(large), 413)) == [""]
    assert pointers_of(problem_of(api.post(b"[%b, %b]" % (event(), large)), 413)) == ["/1"]
    assert pointers_of(problem_of(api.post(b"[%b, %b]" % (event(), large), BATCHED), 413)) == ["/1"]
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}
    problem_of(api.post(json.dumps("x" * (256 * 1024)).encode(), headers=headers), 413)


@pytest.mark.parametrize("size", [1024 * 1024 + 1, 10 * 1024 * 1024])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit_is_a_413(api: Api, size: int, chunked: bool) -> None:
    """Also without a Content-Length."""
    body = b"[%b]" % event().ljust(size - 2)  # each event is small, only the whole is not
    parts = (body[at : at + 65_536] for at in range(0, size, 65_536))
    problem_of(api.post(parts if chunked else body), 413)


UNSUPPORTED = [
    None,
    "",
    "text/plain",
    "application/vnd.api+json",
    "application/json; charset=iso-8859-1",
]


@pytest.mark.parametrize("content_type", UNSUPPORTED)
def test_another_content_type_is_refused_with_a_list_of_ours(api: Api, content_type: str | None) -> None:
    response = api.post(event(), content_type)
    problem_of(response, 415)
    assert response.headers["accept"] == f"application/json, {STRUCTURED}, {BATCHED}"
