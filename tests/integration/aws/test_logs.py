"""The log of the Lambda handlers: one line per invocation, without any data of a client or a source."""

import io
import itertools
import json
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tidewire.monitoring.logs import OWN

from functions import ops, publish, receive, tokens, webhooks
from tests.functions.test_lambda import api_gateway
from tests.integration.aws.conftest import LoadPayload, Queue
from tests.integration.aws.test_parameters import put
from tests.support.api import OPENAPI
from tests.support.processes import MakeRedis
from tests.support.tokens import PUBLISH_KEY, SECRET, user_token
from tests.unit.ingest.webhooks import example

CANARY = "canary-7f3a91"  # in every place that a client or a source fills
CONTEXT = SimpleNamespace(aws_request_id="4f0c8a1e-invocation")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The log at level debug, through the handler that Lambda installs."""
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9")
    monkeypatch.setenv("REALTIME_LOG_LEVEL", "debug")
    root, text = logging.getLogger(), io.StringIO()
    handlers, levels = root.handlers, {name: logging.getLogger(name).level for name in ("", *OWN)}
    root.handlers = [logging.StreamHandler(text)]
    yield text
    root.handlers = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def lines(log: io.StringIO, *messages: str) -> list[dict[str, Any]]:
    """The lines with one of these messages; every line is a JSON object."""
    return [line for line in map(json.loads, log.getvalue().splitlines()) if line["message"] in messages]


def test_each_bus_event_is_one_line_with_its_result(
    log: io.StringIO,
    payload: LoadPayload,
    dead_letters: Queue,
    redis_url: str,
    make_redis: MakeRedis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REALTIME_TRANSPORT", "redis")
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("REALTIME_AUTH", "none")
    monkeypatch.setenv("REALTIME_DEAD_LETTER_QUEUE", dead_letters.url)
    own = payload("eventbridge/own_event")
    receive.handler(own, CONTEXT)
    receive.handler(own, CONTEXT)
    receive.handler({**own, "detail": CANARY}, CONTEXT)
    receive.handler({"Records": [{"messageId": "m", "body": json.dumps(own)}]}, CONTEXT)
    receive.handler.close()
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9")
    with pytest.raises(Exception, match="Redis cannot be used"):
        receive.handler(own, None)
    received = lines(log, "received")
    assert [(line["via"], line["result"], line["events"], line["duplicates"]) for line in received] == [
        ("bus", "appended", 1, 0),
        ("bus", "appended", 1, 1),
        ("bus", "dead-letter", 0, 0),
        ("queue", "appended", 1, 1),
        ("bus", "again", 0, 0),
    ]
    assert {line["request_id"] for line in received[:4]} == {CONTEXT.aws_request_id}
    assert len(received[4]["request_id"]) == 32, "an invocation without an id gets one"
    assert all(line["ms"] >= 0 for line in received)


def test_nothing_that_was_sent_to_a_handler_is_in_its_log(
    log: io.StringIO,
    payload: LoadPayload,
    dead_letters: Queue,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {
        **example.SETTINGS,
        "REALTIME_TRANSPORT": "redis",
        "REDIS_URL": redis_url,
        "REALTIME_PUBLISH_KEYS": PUBLISH_KEY,
        "REALTIME_JWT_SECRET": "ssm:/jwt",
        "REALTIME_METRICS_NAMESPACE": "Test",
        "REALTIME_DEAD_LETTER_QUEUE": dead_letters.url,
    }
    put("/jwt", SECRET)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    token = user_token(CANARY)
    body = json.dumps({"type": "t", "data": CANARY, "userIds": [CANARY], "id": CANARY})
    paths = [
        (method.upper(), path.replace("{source}", source))
        for path, methods in json.loads(OPENAPI.read_text())["paths"].items()
        for method in methods.keys() & {"get", "post"}
        for source in (("github", CANARY) if "{source}" in path else ("",))
    ]
    asked, statuses, sent = 0, set(), dict[str, Any]()
    for handler, (method, path), credential in itertools.product(
        (publish.handler, tokens.handler, webhooks.handler, ops.handler),
        [*paths, ("GET", f"/api/{CANARY}"), ("POST", f"/{CANARY}/{CANARY}")],
        (PUBLISH_KEY, token, CANARY),
    ):
        headers = {"authorization": f"Bearer {credential}", "content-type": "application/json"}
        marked = ("user-agent", "referer", "cookie", "x-hub-signature-256", "x-github-delivery", "x-nf-sign")
        sent = api_gateway(method, path, body, {**headers, **dict.fromkeys(marked, CANARY)}, encoded=False)
        sent |= {"rawQueryString": f"userId={CANARY}&ticket={CANARY}", "queryStringParameters": {"userId": CANARY}}
        sent["requestContext"] |= {"authorizer": {"jwt": {"claims": {"sub": CANARY}}}}
        statuses.add(handler(sent, CONTEXT)["statusCode"])
        asked += 1
    publish.handler.close()  # secrets are read again, now that the log is set
    assert publish.handler(sent, CONTEXT)["statusCode"] == 404
    asked += 1
    own = payload("eventbridge/own_event")
    for detail in ({**own["detail"], "data": CANARY, "id": CANARY}, CANARY, {CANARY: CANARY}, {"type": CANARY}):
        event = {**own, "detail": detail}
        receive.handler(event, CONTEXT)
        receive.handler({"Records": [{"messageId": "m", "body": json.dumps(event)}]}, CONTEXT)
    assert statuses >= {200, 202, 401, 404}
    assert len(lines(log, "request")) == asked
    assert {line["result"] for line in lines(log, "received")} == {"appended", "dead-letter"}
    printed = capsys.readouterr()
    written = log.getvalue() + printed.out + printed.err
    assert "realtime_published" in printed.out
    secrets = {CANARY, PUBLISH_KEY, SECRET, *token.split(".")[1:], *example.SECRETS.values()}
    assert [secret for secret in secrets if secret in written] == []
