"""The log: one machine-readable line per request and per stream, without any client data."""

import json
import logging
import re
import sys
from typing import Any

import pytest
from tidewire.monitoring.logs import JsonLines, TextLines, log_fields, request_id

from tests.support.api import OPENAPI, Api, unique
from tests.support.processes import Instance, MakeInstance, wait_until
from tests.support.tokens import PUBLISH_KEY, SECRET, user_token

CANARY = "canary-7f3a91"  # in every place that a client fills


def lines(instance: Instance, message: str) -> list[dict[str, Any]]:
    """The lines of the log with this message; every line except the banner is a JSON object."""
    found = [
        json.loads(line) for line in instance.log_file.read_text().splitlines() if not line.startswith("Tidewire ")
    ]
    return [line for line in found if line["message"] == message]


def test_each_request_is_one_line_with_its_route_status_and_id(make_instance: MakeInstance) -> None:
    instance = make_instance(REALTIME_LOG_LEVEL="debug")
    api = Api(instance)
    receipts = api.post(b'{"type": "t", "data": 1}', headers={"x-request-id": "from-the-proxy-1"})
    page = api.get()
    wrong = api.http.get("/api/nothing-here/secret")
    health = api.http.get("/api/health/live")
    asked = {answer.headers["x-request-id"]: answer.status_code for answer in (receipts, page, wrong, health)}
    assert receipts.headers["x-request-id"] == "from-the-proxy-1"
    wait_until(lambda: {line["request_id"] for line in lines(instance, "request")} >= asked.keys(), 5)
    seen = {line["request_id"]: line for line in lines(instance, "request")}
    logged = [(line["method"], line["route"], line["status"]) for line in map(seen.__getitem__, asked)]
    assert logged == [
        ("POST", "/api/publish", 202),
        ("GET", "/api/events", 200),
        ("GET", "-", 404),
        ("GET", "/api/health/live", 200),
    ]
    assert all(line["ms"] >= 0 and re.fullmatch(r"20\d\d-.*Z", line["time"]) for line in seen.values())
    api.close()


def test_the_end_of_a_stream_is_one_log_line(make_instance: MakeInstance) -> None:
    """With its reason, duration and number of events."""
    instance = make_instance(REALTIME_STREAM_SECONDS="1s")
    api = Api(instance)
    kind = unique()
    api.publish(*({"type": kind, "data": n} for n in range(3)))
    with api.stream({"x-request-id": "stream-that-ends"}, types=kind, from_="earliest") as stream:
        stream.ready()
        api.publish({"type": kind, "data": 3}, {"type": "other", "data": 0}, {"type": kind, "data": 4})
        assert stream.rest()[-1].type == "realtime.closing"
    with api.stream({"x-request-id": "stream-left"}, types=kind) as stream:
        stream.ready()
    wait_until(lambda: len(lines(instance, "stream")) == 2, 5)
    ended, left = lines(instance, "stream")
    assert (ended["request_id"], ended["reason"], ended["events"]) == ("stream-that-ends", "max-age", 5)
    assert ended["seconds"] >= 1
    assert ended["opened"] < ended["time"]
    assert (left["request_id"], left["reason"], left["events"]) == ("stream-left", "client-gone", 0)
    assert [line["route"] for line in lines(instance, "request")] == ["/api/publish"] * 2, "a stream is no request too"
    api.close()


def test_no_client_input_is_logged_by_any_endpoint(make_instance: MakeInstance) -> None:
    instance = make_instance(REALTIME_LOG_LEVEL="debug", REALTIME_PUBLISH_KEYS=PUBLISH_KEY, REALTIME_JWT_SECRET=SECRET)
    api = Api(instance)
    token = user_token(CANARY)
    secrets = (CANARY, PUBLISH_KEY, SECRET, token.split(".")[1], token.split(".")[2])
    paths = json.loads(OPENAPI.read_text())["paths"]
    body = json.dumps({"type": "t", "data": CANARY, "userIds": [CANARY], "id": CANARY}).encode()
    statuses = set()
    for path, methods in paths.items():
        sent = re.sub(r"\{.*?\}", CANARY, path)
        for method in methods.keys() & {"get", "post"}:
            for credential in (PUBLISH_KEY, token, CANARY):
                headers = {
                    "authorization": f"Bearer {credential}",
                    "content-type": "application/json",
                    "accept": "application/json",
                    "x-request-id": f"{CANARY} and more",  # a space: not taken
                    "user-agent": CANARY,
                    "referer": f"https://{CANARY}.example/",
                    "cookie": f"realtime_token={CANARY}",
                }
                params = {"userId": CANARY, "types": "t", CANARY: CANARY}
                content = body if method == "post" else None
                answer = api.http.request(method, sent, headers=headers, params=params, content=content)
                statuses.add(answer.status_code)
                assert CANARY not in answer.headers["x-request-id"]
    api.http.get(f"/api/{CANARY}")
    api.http.get(f"/{CANARY}")
    with api.acting(token=token).stream({"user-agent": CANARY}, ticket=CANARY) as stream:
        stream.ready()
    api.close()
    instance.stop()
    log = instance.log_file.read_text()
    assert len(lines(instance, "request")) > 3 * len(paths)
    assert lines(instance, "stream")
    assert statuses >= {200, 202, 401, 404}
    assert [secret for secret in secrets if secret in log] == []


def test_the_level_is_a_variable_and_a_terminal_s_form_too(make_instance: MakeInstance) -> None:
    instance = make_instance(REALTIME_LOG_LEVEL="warning", REALTIME_LOG_FORMAT="text", REALTIME_PUBLISH_KEYS="k")
    api = Api(instance)
    assert api.get().status_code == 401
    api.close()
    instance.stop()
    lines = instance.log_file.read_text().splitlines()
    assert [line for line in lines if "request" in line] == []
    [warning] = [line for line in lines if "nobody can subscribe" in line]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING tidewire: .*", warning)


def record(message: str, *arguments: object, **fields: object) -> logging.LogRecord:
    """A record with these fields."""
    made = logging.getLogger("test").makeRecord("test", logging.INFO, "f", 1, message, arguments, None)
    vars(made).update(log_fields(**fields))
    return made


@pytest.mark.parametrize("evil", ["a\nb", 'a", "level": "error', "\udcff", "\x1b[2J"])
def test_no_value_can_forge_a_line_or_a_field(evil: str) -> None:
    line = JsonLines().format(record("%s", evil, name=evil))
    assert "\n" not in line
    assert "\x1b" not in line
    assert json.loads(line).keys() == {"time", "level", "logger", "message", "name"}


def test_a_failure_s_traceback_is_in_its_line() -> None:
    try:
        raise KeyError("missing")
    except KeyError:
        made = record("failed")
        made.exc_info = sys.exc_info()
    assert json.loads(JsonLines().format(made))["exception"].endswith("KeyError: 'missing'")
    assert "KeyError: 'missing'" in TextLines().format(made)


@pytest.mark.parametrize("given", [None, "", "short", "x" * 65, "with space", "a\nb-1234567", "ümlaut-123"])
def test_a_request_id_that_is_not_fit_for_a_log_is_replaced(given: str | None) -> None:
    assert re.fullmatch("[0-9a-f]{32}", request_id(given))
