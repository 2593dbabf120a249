"""Cross-origin requests: exact origins, on every answer, errors included."""

import httpx
import pytest

from tests.functions.conftest import ORIGIN
from tests.support.api import Api, problem_of
from tests.support.processes import MakeInstance, ServerError

GRANTED = {
    "access-control-allow-origin": ORIGIN,
    "access-control-allow-credentials": "true",
    "access-control-expose-headers": "Retry-After, WWW-Authenticate, X-Request-Id",
    "vary": "Origin",
}
STRANGERS = ["https://app.example.com.evil.example", "null"]  # tests/unit/protocol/test_headers.py has more
REQUESTS: list[tuple[str, str, dict[str, str], int]] = [
    ("GET", "/api/events?wait=0", {"accept": "application/json"}, 200),
    ("GET", "/api/events?wait=x", {}, 400),
    ("PUT", "/api/events", {}, 405),
    ("POST", "/api/publish", {"content-type": "text/plain"}, 415),
    ("POST", "/api/publish", {"content-type": "application/json"}, 400),
    ("GET", "/api/publish", {}, 405),
    ("GET", "/api/nothing", {}, 404),
    ("GET", "/api/health/ready", {}, 200),
    ("GET", "/api/metrics", {}, 200),
]


def granted(response: httpx.Response) -> dict[str, str]:
    """The CORS headers of an answer."""
    names = {*GRANTED, *(name for name in response.headers if name.startswith("access-control-"))}
    return {name: response.headers[name] for name in names if name in response.headers}


@pytest.mark.parametrize(("method", "path", "headers", "status"), REQUESTS)
def test_an_allowed_origin_may_read_every_answer_errors_included(
    api: Api, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    response = api.http.request(method, path, headers={**headers, "origin": ORIGIN})
    assert response.status_code == status
    assert granted(response) == GRANTED


def test_an_allowed_origin_may_read_a_stream(api: Api) -> None:
    with api.stream({"origin": "http://localhost:3000"}) as stream:
        assert granted(stream.response) == {**GRANTED, "access-control-allow-origin": "http://localhost:3000"}


def test_an_allowed_origin_may_read_why_it_is_refused(guarded: Api) -> None:
    for response in (guarded.get({"origin": ORIGIN}), guarded.post(b"", headers={"origin": ORIGIN})):
        problem_of(response, 401)
        assert granted(response) == GRANTED


@pytest.mark.parametrize("origin", STRANGERS)
def test_another_origin_gets_no_cors_headers_but_vary(api: Api, origin: str) -> None:
    """`Vary: Origin` keeps the responses apart in shared caches."""
    for method, path, headers, status in REQUESTS:
        response = api.http.request(method, path, headers={**headers, "origin": origin})
        assert response.status_code == status
        assert granted(response) == {"vary": "Origin"}
    with api.stream({"origin": origin}) as stream:
        assert granted(stream.response) == {"vary": "Origin"}


@pytest.mark.parametrize("path", ["/api/events", "/api/publish", "/api/health/live"])
def test_a_preflight_allows_what_the_page_asks_for(api: Api, path: str) -> None:
    """Tools for tracing and errors add headers to each request; what no header could be named is not repeated."""
    usual = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
    asked = [
        ("authorization,baggage,cache-control,sentry-trace,traceparent,tracestate,x-request-id", None),
        ("x-a\u00e9", usual),
    ]
    for names, allowed in asked:
        headers = {
            b"origin": ORIGIN.encode(),
            b"access-control-request-method": b"GET",
            b"access-control-request-headers": names.encode(),
        }
        response = api.http.options(path, headers=headers)
        assert response.status_code == 204
        assert response.content == b""
        assert granted(response) == {
            **GRANTED,
            "vary": "Origin, Access-Control-Request-Headers",
            "access-control-allow-methods": "GET, POST, OPTIONS",
            "access-control-allow-headers": allowed or names,
            "access-control-max-age": "7200",
        }


def test_origins_are_written_as_people_write_them(make_instance: MakeInstance) -> None:
    api = Api(make_instance(REALTIME_ALLOWED_ORIGINS="HTTPS://App.Example.com:443,http://localhost:80"))
    for origin in (ORIGIN, "http://localhost"):
        response = api.http.get("/api/health/live", headers={"origin": origin})
        assert response.headers["access-control-allow-origin"] == origin
    api.close()


@pytest.mark.parametrize("origin", ["null", "https://bücher.example", "https://app.example.com/", "*"])
def test_an_origin_that_no_browser_sends_stops_the_start(make_instance: MakeInstance, origin: str) -> None:
    with pytest.raises(ServerError) as caught:
        make_instance(REALTIME_ALLOWED_ORIGINS=origin)
    assert "tidewire: REALTIME_ALLOWED_ORIGINS: " in str(caught.value)


@pytest.mark.parametrize("origin", STRANGERS)
def test_a_preflight_of_another_origin_is_refused(api: Api, origin: str) -> None:
    for path in ("/api/events", "/api/publish"):
        headers = {"origin": origin, "access-control-request-method": "GET"}
        response = api.http.options(path, headers=headers)
        problem_of(response, 403)
        assert not [name for name in response.headers if name.startswith("access-control-")]


def test_a_preflight_needs_no_credential(guarded: Api) -> None:
    """Browsers send none with it."""
    for path in ("/api/events", "/api/publish"):
        headers = {"origin": ORIGIN, "access-control-request-method": "GET"}
        assert guarded.http.options(path, headers=headers).status_code == 204


def test_where_no_origin_is_allowed_no_answer_speaks_of_origins(federated: Api) -> None:
    for path in ("/api/events", "/api/health/live"):
        assert granted(federated.http.get(path, headers={"origin": ORIGIN})) == {}
