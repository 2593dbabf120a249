"""Malformed requests: paths, methods, queries, headers, and HTTP itself."""

import http.client
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator, Sequence

import httpx
import pytest
from tidewire.delivery.hub import Hub
from tidewire.http import local
from tidewire.model.cursor import Cursor
from tidewire.model.event import Event
from tidewire.settings.config import Settings
from tidewire.transports.base import Receipt
from tidewire.transports.memory import MemoryLog

from tests.support.api import TIMEOUT, Api, check, pointers_of, problem_of

EVENT = b'{"type": "t", "data": 1}'


def raw_request(api: Api, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """The status, headers and body that the server answers to these bytes."""
    with socket.create_connection(("127.0.0.1", api.instance.port), timeout=TIMEOUT) as connection:
        connection.sendall(request)
        with http.client.HTTPResponse(connection) as response:
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, response.read()


def publish_request(*headers: bytes, body: bytes = EVENT) -> bytes:
    length = b"Content-Length: %d" % len(body)
    lines = [b"POST /api/publish HTTP/1.1", b"Host: t", b"Content-Type: application/json", *headers, length]
    return b"\r\n".join([*lines, b"", body])


@pytest.fixture(autouse=True)
def nothing_is_appended(request: pytest.FixtureRequest) -> Iterator[None]:
    if "api" not in request.fixturenames:
        yield
        return
    api = request.getfixturevalue("api")
    before = api.head()
    yield
    assert api.head() == before


NOT_HTTP = {
    "a NUL in a header": publish_request(b"Idempotency-Key: a\0b"),
    "a CR in a header": publish_request(b"Idempotency-Key: a\rb"),
    "a LF in a header": publish_request(b"Idempotency-Key: a\nb: c\r"),
    "a folded header": publish_request(b"Idempotency-Key: a\r\n b"),
    "a header without a name": publish_request(b": a"),
    "a space in a header's name": publish_request(b"Idempotency Key: a"),
    "a NUL in Last-Event-ID": b"GET /api/events HTTP/1.1\r\nHost: t\r\nLast-Event-ID: a\0b\r\n\r\n",
    "two lengths": publish_request(b"Content-Length: 0"),
    "a length and chunks, as a smuggler sends them": publish_request(b"Transfer-Encoding: chunked"),
    "a negative length": b"POST /api/publish HTTP/1.1\r\nHost: t\r\nContent-Length: -1\r\n\r\n",
    "a length that is no number": b"POST /api/publish HTTP/1.1\r\nHost: t\r\nContent-Length: \xb2\r\n\r\n",
    "a byte beyond ASCII in the path": b"GET /api/\xff HTTP/1.1\r\nHost: t\r\n\r\n",
    "a byte beyond ASCII in the query": b"GET /api/events?types=\xff HTTP/1.1\r\nHost: t\r\n\r\n",
    "an unknown method": b"HELLO /api/events HTTP/1.1\r\nHost: t\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("request_bytes", NOT_HTTP.values(), ids=NOT_HTTP.keys())
def test_what_is_not_http_is_refused_and_the_connection_closed(api: Api, request_bytes: bytes) -> None:
    status, headers, body = raw_request(api, request_bytes)
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert headers["connection"] == "close"
    check(json.loads(body), "Problem")


def test_a_head_without_an_end_is_not_kept_in_memory(api: Api) -> None:
    for start in (b"GET /api/health/live HTTP/1.1\r\nX: ", b"GET /", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5_000):
        with socket.create_connection(("127.0.0.1", api.instance.port), timeout=TIMEOUT) as connection:
            connection.sendall(start)
            assert [api.head() for _ in range(3)], "the server has read the first piece"
            # Not a byte more: unread bytes at the close of a server reset the connection, and the response may be lost.
            connection.sendall(b"a" * (64 * 1024 + 1))
            with http.client.HTTPResponse(connection) as response:
                response.begin()
                assert (response.status, response.getheader("content-type")) == (431, "application/problem+json")
                check(json.loads(response.read()), "Problem")


def test_a_body_behind_a_split_head_is_not_counted_as_head(api: Api) -> None:
    request = publish_request(b"Accept: */*", body=b"x" * 200_000)
    with socket.create_connection(("127.0.0.1", api.instance.port), timeout=TIMEOUT) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request[:30])
        assert [api.head() for _ in range(3)], "the server has read the first piece"
        connection.sendall(request[30:])
        with http.client.HTTPResponse(connection) as response:
            response.begin()
            assert response.status == 400
            assert b"not valid JSON" in response.read()


@pytest.mark.parametrize("path", ["/api/nothing", "/api/publish/", "/api/events/", "/api/", "/api/health", "/nothing"])
def test_an_unknown_path_is_404(api: Api, path: str) -> None:
    problem_of(api.http.get(path), 404)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_an_unknown_path_of_the_api_is_404_for_every_method(api: Api, method: str) -> None:
    problem_of(api.http.request(method, "/api/nothing", content=EVENT), 404)


@pytest.mark.parametrize(
    "path",
    ["/..%2f..%2fpyproject.toml", "/%2e%2e/pyproject.toml", "/%00", "/a%0d%0aSet-Cookie:%20a=b", "/" + "a" * 5_000],
)
def test_a_path_cannot_leave_the_site_or_forge_a_header(api: Api, path: str) -> None:
    response = api.http.get(path)
    problem_of(response, 404)
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize(
    "context",
    [
        "[" * 8_000,
        '{"deadline": ' + "[" * 8_000,
        '{"deadline": 1%s}' % ("0" * 400),
        "{",
        "[]",
        '{"deadline": {}}',
        '"x"',
    ],
)
def test_a_malformed_lambda_context_changes_nothing(api: Api, context: str) -> None:
    """The header is the Lambda Web Adapter's; elsewhere a client may send what it likes: some of it was a 500."""
    with api.stream({"x-amzn-lambda-context": context}) as stream:
        stream.ready()


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/api/publish", {"POST"}),
        ("/api/events", {"GET"}),
        ("/api/config", {"GET", "HEAD"}),
        ("/api/health/live", {"GET", "HEAD"}),
        ("/api/health/ready", {"GET", "HEAD"}),
        ("/api/metrics", {"GET", "HEAD"}),
        ("/api/openapi.json", {"GET", "HEAD"}),
    ],
)
def test_a_wrong_method_is_405_and_told_the_right_one(api: Api, path: str, allow: set[str]) -> None:
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - allow:
        response = api.http.request(method, path)
        problem_of(response, 405)
        assert set(response.headers["allow"].split(", ")) == allow


WRONG_QUERIES = [
    "types=a%0ab",
    "userId=",
    "from=2026-02-30T00:00:00Z",
    "format=json",
    "wait=20.001",
    "last_event_id=a&lastEventId=b",
    "types=%ff",
    "&".join(f"x{n}=" for n in range(151)),
]


@pytest.mark.parametrize("query", WRONG_QUERIES, ids=lambda query: query[:40])
@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
def test_a_wrong_query_is_400_for_a_stream_and_for_a_page(api: Api, query: str, accept: str) -> None:
    """tests/unit/protocol/test_subscribe_request.py has all the cases."""
    problem_of(api.http.get(f"/api/events?{query}", headers={"accept": accept}), 400)


@pytest.mark.parametrize("key", ['""', "k\xe9y"], ids=ascii)
def test_an_idempotency_key_that_is_no_id_is_refused_at_the_id(api: Api, key: str) -> None:
    assert pointers_of(problem_of(api.post(EVENT, headers={"idempotency-key": key}), 400)) == ["/id"]


def test_an_unknown_query_field_changes_nothing(api: Api) -> None:
    assert api.http.get("/api/events?x=1&y=%00", headers={"accept": "application/json"}).status_code == 200


def test_a_disconnect_within_the_body_is_no_server_error(api: Api) -> None:
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", api.instance.port)) as connection:
            connection.sendall(publish_request()[:-5])
    api.head()  # answered after the server has seen them leave
    assert "Traceback" not in api.instance.log_file.read_text()


class BrokenLog(MemoryLog):
    """A log with unexpected errors, whose text must not reach a client."""

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        raise RuntimeError("hunter2")

    async def head(self, partitions: Sequence[str]) -> Cursor:
        raise RuntimeError("hunter2")

    async def ping(self) -> None:
        raise RuntimeError("hunter2")


@pytest.fixture
async def broken() -> AsyncIterator[httpx.AsyncClient]:
    async with Hub(BrokenLog()) as hub:
        app = local.app(hub, Settings(allowed_origins=frozenset({"https://app.example.com"})))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            yield client


@pytest.mark.parametrize(
    ("method", "path", "accept"),
    [
        ("POST", "/api/publish", "*/*"),
        ("GET", "/api/events", "text/event-stream"),
        ("GET", "/api/events", "application/json"),
        ("GET", "/api/events?wait=1", "application/json"),
        ("GET", "/api/health/ready", "*/*"),
    ],
)
async def test_an_unexpected_error_is_a_500_without_details(
    broken: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, method: str, path: str, accept: str
) -> None:
    """Its traceback is in the log."""
    headers = {"accept": accept, "content-type": "application/json", "origin": "https://app.example.com"}
    with caplog.at_level(logging.ERROR):
        response = await broken.request(method, path, content=EVENT, headers=headers)
    problem_of(response, 500)
    assert "hunter2" not in response.text
    assert "RuntimeError" not in response.text
    assert response.headers["access-control-allow-origin"] == "https://app.example.com"
    if path.startswith("/api/events"):  # the others are logged by the ASGI server, to which they are raised again
        assert "hunter2" in caplog.text
