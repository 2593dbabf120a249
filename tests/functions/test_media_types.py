"""Content-Type as clients and proxies write it; tests/unit/protocol/test_headers.py has more of them."""

import json

import pytest

from tests.functions.test_webhooks import send
from tests.support.api import Api, problem_of, unique
from tests.support.tokens import PUBLISH_KEY

TAKEN = ["Application/JSON ; Charset=utf-8", 'application/json; profile="a;b"; charset="utf-8"']
REFUSED = ["application/json; charset=latin1", "application/json, text/plain", "application/jsonx"]


@pytest.mark.parametrize("kind", TAKEN)
def test_a_media_type_is_taken_as_it_is_written(api: Api, guarded: Api, hooked: Api, kind: str) -> None:
    assert api.post(json.dumps({"type": unique(), "data": 1}).encode(), kind).status_code == 202
    headers = {"authorization": f"Bearer {PUBLISH_KEY}", "content-type": kind}
    assert guarded.http.post("/api/tokens", content=b"{}", headers=headers).status_code == 200
    assert send(hooked, "github", b"{}", "d", {"content-type": kind}).status_code == 202


@pytest.mark.parametrize("kind", REFUSED)
def test_a_media_type_that_is_not_json_in_utf_8_is_a_415(api: Api, guarded: Api, hooked: Api, kind: str) -> None:
    problem_of(api.post(b"{}", kind), 415)
    headers = {"authorization": f"Bearer {PUBLISH_KEY}", "content-type": kind}
    problem_of(guarded.http.post("/api/tokens", content=b"{}", headers=headers), 415)
    problem_of(send(hooked, "github", b"{}", "d", {"content-type": kind}), 415)


@pytest.mark.parametrize("kind", ["Application/CloudEvents+JSON; charset=utf-8"])
def test_a_cloudevent_may_name_its_charset(api: Api, kind: str) -> None:
    event = {"specversion": "1.0", "id": unique("id"), "source": "/s", "type": unique(), "data": 1}
    assert api.post(json.dumps(event).encode(), kind).status_code == 202
    batch = kind.replace("+json", "-batch+json").replace("+JSON", "-batch+JSON")
    assert api.post(json.dumps([{**event, "id": unique("id")}]).encode(), batch).status_code == 202


def test_a_content_type_on_two_lines_says_the_same_twice(api: Api) -> None:
    body = json.dumps({"type": unique(), "data": 1}).encode()
    for second, status in (("application/json;charset=utf-8", 202), ("text/plain", 415)):
        lines = [("content-type", "application/json"), ("content-type", second)]
        assert api.http.post("/api/publish", content=body, headers=lines).status_code == status
