"""The Lambda handlers, with events of API Gateway (payload 2.0) and of function URLs."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tidewire import __version__
from tidewire.errors import SettingsError

from functions import ops, publish, tokens
from tests.support.api import OPENAPI, check, unique
from tests.support.tokens import PUBLISH_KEY, SECRET
from tests.unit.ingest.webhooks.example import PAYLOADS

Invoke = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An execution environment as Lambda makes it: one loop, and modules that live from call to call."""
    for name in ("REALTIME_TRANSPORT", "REDIS_URL", "REALTIME_AUTH", "REALTIME_JWT_SECRET", "REALTIME_JWKS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "tidewire-publish")
    monkeypatch.setenv("REALTIME_PUBLISH_KEYS", PUBLISH_KEY)
    monkeypatch.setenv("REALTIME_ALLOWED_ORIGINS", "https://app.example.com")
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    for function in (publish, ops, tokens):
        function.handler.close()
    asyncio.set_event_loop(None)
    loop.close()


def api_gateway(method: str, path: str, body: str | None, headers: dict[str, str], encoded: bool) -> dict[str, Any]:
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "abc.execute-api.eu-central-1.amazonaws.com", **headers},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abc",
            "domainName": "abc.execute-api.eu-central-1.amazonaws.com",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "t"},
            "requestId": "r",
            "routeKey": "$default",
            "stage": "$default",
            "timeEpoch": 1_790_000_000_000,
        },
        "body": body,
        "isBase64Encoded": encoded,
    }


def function_url(method: str, path: str, body: str | None, headers: dict[str, str], encoded: bool) -> dict[str, Any]:
    event = api_gateway(method, path, body, headers, encoded)
    domain = "abc.lambda-url.eu-central-1.on.aws"
    event["headers"]["host"] = event["requestContext"]["domainName"] = domain
    event["requestContext"]["authentication"] = None
    if body is None:
        del event["body"]
    return event


@pytest.fixture(params=[api_gateway, function_url], ids=["api-gateway", "function-url"])
def invoke(request: pytest.FixtureRequest) -> Invoke:
    """Calls a handler with an event of this shape."""

    def call(
        handler: Any, method: str, path: str, body: str | None = None, *, encoded: bool = False, **headers: str
    ) -> dict[str, Any]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        result: dict[str, Any] = handler(request.param(method, path, body, names, encoded), None)
        assert json.dumps(result), "Lambda answers JSON"
        return result

    return call


def key() -> dict[str, str]:
    return {"authorization": f"Bearer {PUBLISH_KEY}", "content_type": "application/json"}


def test_a_body_is_accepted_as_text_or_in_base64(invoke: Invoke) -> None:
    body = json.dumps({"type": unique(), "data": "ü"})
    for text, encoded in ((body, False), (base64.b64encode(body.encode()).decode(), True)):
        result = invoke(publish.handler, "POST", "/api/publish", text, encoded=encoded, **key())
        assert (result["statusCode"], result["isBase64Encoded"]) == (202, False)
        assert result["headers"]["content-type"] == "application/json"
        check(json.loads(result["body"]), "Receipts")


def test_invocations_share_one_log_and_one_event_loop(invoke: Invoke) -> None:
    event = json.dumps({"type": unique(), "data": 1, "id": unique("id")})
    receipts = [
        json.loads(invoke(publish.handler, "POST", "/api/publish", event, **key())["body"])["events"][0]
        for _ in range(5)
    ]
    assert [receipt["duplicate"] for receipt in receipts] == [False, True, True, True, True]
    assert len({receipt["cursor"] for receipt in receipts}) == 1


def test_errors_are_not_encoded_in_base64(invoke: Invoke) -> None:
    """A gateway without binary support could not decode them."""
    good = json.dumps({"type": "t", "data": 1})
    no_key = {"content_type": "application/json"}
    answers = [
        (401, invoke(publish.handler, "POST", "/api/publish", good, **no_key)),
        (400, invoke(publish.handler, "POST", "/api/publish", "{", **key())),
        (400, invoke(publish.handler, "POST", "/api/publish", None, **key())),
        (413, invoke(publish.handler, "POST", "/api/publish", " " * (1024 * 1024 + 1), **key())),
        (415, invoke(publish.handler, "POST", "/api/publish", good, **{**key(), "content_type": "text/plain"})),
        (405, invoke(publish.handler, "GET", "/api/publish", **key())),
        (404, invoke(publish.handler, "POST", "/api/nothing", good, **key())),
        (404, invoke(ops.handler, "GET", "/api/nothing")),
    ]
    for status, result in answers:
        assert (result["statusCode"], result["isBase64Encoded"]) == (status, False)
        assert result["headers"]["content-type"] == "application/problem+json"
        check(json.loads(result["body"]), "Problem")
    assert answers[0][1]["headers"]["www-authenticate"] == 'Bearer realm="tidewire"'


def test_cors_headers_are_on_preflights_and_errors(invoke: Invoke) -> None:
    origin = {"origin": "https://app.example.com"}
    asked = {**origin, "access_control_request_method": "POST"}
    preflight = invoke(publish.handler, "OPTIONS", "/api/publish", **asked)
    assert preflight["statusCode"] == 204
    assert preflight["headers"]["access-control-allow-origin"] == "https://app.example.com"
    refused = invoke(publish.handler, "POST", "/api/publish", "{", content_type="application/json", **origin)
    assert refused["headers"]["access-control-allow-origin"] == "https://app.example.com"


def recorded(file: str) -> dict[str, Any]:
    """A request as API Gateway sends it, with our key."""
    event: dict[str, Any] = json.loads((PAYLOADS / "lambda" / file).read_text().replace("a-publish-key", PUBLISH_KEY))
    return event


@pytest.mark.parametrize("file", ["api_gateway.json", "http_api_named_stage.json", "rest_api.json"])
def test_routes_match_whatever_the_stage_is_called(file: str) -> None:
    """With a named stage, an HTTP API has it in the path: every request was a 404."""
    result = publish.handler(recorded(file), None)
    assert (result["statusCode"], result["isBase64Encoded"]) == (202, False), result


@pytest.mark.parametrize(
    ("stage", "path", "status"),
    [
        ("api", "/api/api/publish", 202),
        ("api", "/api/publish", 202),
        ("$default", "/events/v1/api/publish", 202),
        ("prod", "/prod/publish", 404),
        ("prod", "/prod/api/nothing", 404),
        ("prod", "/prod", 404),
        ("prod", "/prodapi/publish", 404),
    ],
)
def test_a_stage_before_the_path_is_the_gateways(stage: str, path: str, status: int) -> None:
    event = recorded("http_api_named_stage.json")
    event["rawPath"] = event["requestContext"]["http"]["path"] = path
    event["requestContext"]["stage"] = stage
    assert publish.handler(event, None)["statusCode"] == status


def test_operations_answer_on_lambda_too(invoke: Invoke) -> None:
    def get(path: str) -> str:
        result = invoke(ops.handler, "GET", path)
        assert (result["statusCode"], result["isBase64Encoded"]) == (200, False)
        return str(result["body"])

    for _ in range(2):
        assert json.loads(get("/api/health/live")) == {"status": "live", "version": __version__}
        assert json.loads(get("/api/health/ready"))["status"] == "ready"
        families = {family.name for family in text_string_to_metric_families(get("/api/metrics"))}
        assert {"realtime_subscribers", "realtime_published", "realtime_gaps"} <= families
    assert get("/api/openapi.json") == OPENAPI.read_text()


def test_a_function_without_keys_does_not_start_open(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REALTIME_PUBLISH_KEYS")
    monkeypatch.setenv("REALTIME_TRANSPORT", "redis")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9")
    with pytest.raises(SettingsError, match="REALTIME_AUTH"):
        invoke(publish.handler, "POST", "/api/publish", '{"type": "t", "data": 1}', **key())


def test_the_tokens_function_answers_clients(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """It alone has both the keys, which say that authentication is on, and the stream's address."""
    streams = "https://abc.lambda-url.eu-central-1.on.aws/api/events"
    monkeypatch.setenv("REALTIME_JWT_SECRET", SECRET)
    monkeypatch.setenv("REALTIME_STREAM_URL", streams)
    answer = invoke(tokens.handler, "GET", "/api/config")
    assert answer["statusCode"] == 200
    assert json.loads(answer["body"]) == {"auth": "required", "streamUrl": streams}


def test_tokens_tickets_and_revocations_are_a_function_too(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALTIME_JWT_SECRET", SECRET)
    monkeypatch.setenv("REALTIME_STREAM_URL", "https://abc.lambda-url.eu-central-1.on.aws/api/events")
    minted = invoke(tokens.handler, "POST", "/api/tokens", json.dumps({"userId": "u1"}), **key())
    assert minted["statusCode"] == 200
    authorized = {"authorization": f"Bearer {json.loads(minted['body'])['token']}"}
    ticket = invoke(tokens.handler, "POST", "/api/tickets", None, **authorized)
    assert json.loads(ticket["body"])["url"] == "https://abc.lambda-url.eu-central-1.on.aws/api/events"
    assert ticket["headers"]["cache-control"] == "no-store"
    revoked = invoke(tokens.handler, "POST", "/api/revocations", json.dumps({"userId": "u1"}), **key())
    assert revoked["statusCode"] == 202
    check(json.loads(revoked["body"]), "Revocation")
