"""Warm environments: invocations share one connection and one loop; after a freeze, the connection is new."""

import asyncio
import copy
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis
from tidewire.delivery.hub import Hub

from functions import publish, receive
from tests.support.processes import ROOT

Handler = Callable[[dict[str, Any], Any], dict[str, Any]]

PAYLOADS = ROOT / "tests" / "payloads"


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((PAYLOADS / f"{name}.json").read_text())
    return loaded


def function_url() -> dict[str, Any]:
    event, posted = load("lambda/function_url"), load("lambda/api_gateway")
    event["requestContext"]["http"] |= {"method": "POST", "path": posted["rawPath"]}
    event |= {"rawPath": posted["rawPath"], "body": posted["body"]}
    event["headers"] |= {name: posted["headers"][name] for name in ("authorization", "content-type")}
    return event


@pytest.fixture(autouse=True)
def environment(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A new execution environment, with no event loop: Python 3.14 makes none of itself either."""
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "tidewire")
    monkeypatch.setenv("REALTIME_TRANSPORT", "redis")
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("REALTIME_PUBLISH_KEYS", "a-publish-key")
    monkeypatch.delenv("REALTIME_CONFIG", raising=False)
    asyncio.set_event_loop(None)
    yield
    publish.handler.close()
    receive.handler.close()
    with suppress(RuntimeError):  # the test invoked no HTTP function, which makes the loop
        asyncio.get_event_loop().close()
    asyncio.set_event_loop(None)


CALLS: dict[str, tuple[Handler, Callable[[], dict[str, Any]]]] = {
    "api-gateway": (publish.handler, lambda: load("lambda/api_gateway")),
    "function-url": (publish.handler, function_url),
    "eventbridge": (receive.handler, lambda: load("eventbridge/application_event")),
}


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest) -> Callable[[int], Any]:
    """Invokes a function; each number is another event."""
    handler, event = CALLS[str(request.param)]

    def invoke(number: int) -> Any:
        payload = copy.deepcopy(event())
        payload["id"] = f"{payload.get('id')}-{number}"
        answer = handler(payload, None)
        if "statusCode" in answer:
            assert answer["statusCode"] == 202, answer
            answer = json.loads(answer["body"])
        (receipt,) = answer["events"]
        assert not receipt["duplicate"]
        return receipt

    return invoke


def _connections(blocking_redis: redis.Redis) -> set[str]:
    """The ids of all connections except this one."""
    own = str(blocking_redis.client_id())
    return {client["id"] for client in blocking_redis.client_list()} - {own}


def test_all_invocations_of_an_environment_share_one_connection(
    call: Callable[[int], Any], blocking_redis: redis.Redis
) -> None:
    before = _connections(blocking_redis)
    call(0)
    opened = _connections(blocking_redis) - before
    assert len(opened) == 1
    for number in range(1, 6):
        call(number)
    assert _connections(blocking_redis) - before == opened


def test_all_invocations_run_on_one_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loops = []
    dispatch = Hub.dispatch

    async def watched(self: Hub, *arguments: Any, **options: Any) -> Any:
        loops.append(asyncio.get_running_loop())
        return await dispatch(self, *arguments, **options)

    monkeypatch.setattr(Hub, "dispatch", watched)
    for _ in range(3):
        assert publish.handler(load("lambda/api_gateway"), None)["statusCode"] == 202
    assert len(loops) == 3
    assert len(set(loops)) == 1


def test_an_invocation_reconnects_after_a_freeze(call: Callable[[int], Any], blocking_redis: redis.Redis) -> None:
    before = _connections(blocking_redis)
    call(0)
    (lost,) = _connections(blocking_redis) - before
    blocking_redis.client_kill_filter(
        _id=lost
    )  # Lambda runs no code between two invocations, so the loss is not noticed
    call(1)
    (opened,) = _connections(blocking_redis) - before
    assert opened != lost
