"""Limits of a deployment: 429, the limit's name, and Retry-After."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.functions.conftest import ORIGIN
from tests.functions.test_openapi import DOCUMENT, OPERATIONS
from tests.support.api import Api, problem_of, unique
from tests.support.processes import MakeInstance
from tests.support.tokens import PUBLISH_KEY, SECRET, user_token

OTHER_KEY = "another-publish-key-0b77"


def too_many(response: httpx.Response, limit: str) -> int:
    """The seconds after which to come again."""
    problem = problem_of(response, 429)
    assert problem["limit"] == limit
    assert "REALTIME_" in problem["detail"]
    return int(response.headers["retry-after"])


@pytest.fixture
def limited(make_instance: MakeInstance) -> Iterator[Api]:
    api = Api(
        make_instance(
            REALTIME_PUBLISH_KEYS=f"{PUBLISH_KEY},{OTHER_KEY}",
            REALTIME_JWT_SECRET=SECRET,
            REALTIME_PUBLISH_RATE="100/10m",
            REALTIME_MAX_CONNECTIONS="5",
            REALTIME_MAX_USER_CONNECTIONS="2",
            REALTIME_ALLOWED_ORIGINS=ORIGIN,
        )
    )
    yield api
    api.close()


def test_a_rate_limit_counts_events_not_requests(limited: Api) -> None:
    publisher, other = limited.acting(key=PUBLISH_KEY), limited.acting(key=OTHER_KEY)
    batch = [{"type": "t", "data": n} for n in range(50)]
    publisher.publish(*batch)
    refused = json.dumps([{"type": "t"}] * 50).encode()
    assert publisher.post(refused).status_code == 400, "what is wrong takes nothing"
    publisher.publish(*batch)
    reader = limited.acting(token=user_token("u1"))
    before = reader.head()
    response = publisher.post(json.dumps(batch).encode(), headers={"origin": ORIGIN})
    assert 290 <= too_many(response, "publish-rate") <= 300
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "Retry-After" in response.headers["access-control-expose-headers"]
    assert reader.head() == before, "nothing of it was accepted"
    other.publish(*batch)


def test_two_instances_on_redis_share_a_keys_rate(make_instance: MakeInstance, redis_settings: dict[str, str]) -> None:
    settings = {**redis_settings, "REALTIME_PREFIX": unique("p")[:20], "REALTIME_PUBLISH_RATE": "3/1h"}
    one, other = Api(make_instance(**settings)), Api(make_instance(**settings))
    event = {"type": "t", "data": 1}
    for api in (one, other, one):
        api.publish(event)
    for api in (one, other):
        assert too_many(api.post(json.dumps(event).encode()), "publish-rate") <= 1_200
        api.close()


def test_connection_limits_per_user_and_instance_are_freed(limited: Api) -> None:
    one, two = limited.acting(token=user_token("u1")), limited.acting(token=user_token("u2"))
    nobody = limited.acting(token=user_token(None))

    def stream_of(api: Api) -> httpx.Response:
        return api.get({"accept": "text/event-stream"})

    with one.stream() as first, one.stream() as second:
        first.ready()
        second.ready()
        assert too_many(stream_of(one), "user-connections") > 0
        assert too_many(one.get(params={"wait": "1"}), "user-connections") > 0
        assert one.get().status_code == 200, "a page that does not wait holds no connection"
        with two.stream() as third, nobody.stream() as fourth, nobody.stream() as fifth:
            for stream in (third, fourth, fifth):
                stream.ready()
            assert too_many(stream_of(two), "connections") > 0
            assert too_many(stream_of(nobody), "connections") > 0
    while stream_is_refused(one) or stream_is_refused(two):  # until the server has seen that they are gone
        pass
    assert limited.http.get("/api/health/live").status_code == 200


def stream_is_refused(api: Api) -> bool:
    response = api.get(params={"wait": "0.01"})
    assert response.status_code in (200, 429)
    return response.status_code == 429


def test_a_connection_that_was_refused_takes_no_place(limited: Api) -> None:
    for _ in range(10):
        problem_of(limited.acting(token="x").get(params={"wait": "1"}), 401)
        problem_of(limited.acting(token=user_token("u1", types=["a"])).get(params={"wait": "1", "types": "b"}), 403)
    with limited.acting(token=user_token("u1")).stream() as stream:
        stream.ready()


SECURITY = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def test_every_answer_of_the_api_has_the_security_headers_once(guarded: Api, api: Api) -> None:
    asked = [(method, path) for path, method in sorted(OPERATIONS)]
    asked += [
        ("GET", "/api/nothing"),
        ("PUT", "/api/publish"),
        ("PUT", "/api/events"),
    ]
    for server in (guarded, api):
        for method, path in asked:
            for headers in ({}, {"origin": ORIGIN}, {"origin": ORIGIN, "access-control-request-method": "POST"}):
                for verb in {method, "OPTIONS"} if "access-control-request-method" in headers else {method}:
                    with server.http.stream(verb, path, headers=headers) as response:
                        for name, value in SECURITY.items():
                            assert response.headers.get_list(name) == [value], (verb, path, response.status_code)
                        assert response.status_code == 204 or response.headers["cache-control"].startswith("no-")


def test_the_console_page_keeps_its_own_policy(api: Api) -> None:
    response = api.http.get("/")
    assert response.headers.get_list("content-security-policy") == [
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ]
    assert response.headers["x-content-type-options"] == "nosniff"


def test_429_is_documented_for_the_limited_routes() -> None:
    answering = {path for path, item in DOCUMENT["paths"].items() for op in item.values() if "429" in op["responses"]}
    assert answering == {"/api/publish", "/api/events"}
