"""The stream function as Lambda runs it: a process, an adapter, and a Runtime API that streams."""

import asyncio
import copy
import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tidewire.model.event import Event
from tidewire.transports.redis.streams import RedisStreams

from tests.integration.lambda_runtime.adapter import ADAPTERS, adapter
from tests.integration.lambda_runtime.runtime_api import RuntimeApi
from tests.support.processes import ROOT, Instance, RedisServer, inherited

REQUEST = json.loads((ROOT / "tests" / "payloads" / "lambda" / "function_url.json").read_text())


def append(redis_url: str, *numbers: int) -> None:
    async def publish() -> None:
        log = RedisStreams(redis_url)
        await log.publish([Event(f"id-{n}", "t", b"%d" % n) for n in numbers])
        await log.aclose()

    asyncio.run(publish())


def request(query: str = "", **headers: str) -> dict[str, Any]:
    event: dict[str, Any] = copy.deepcopy(REQUEST)
    event["rawQueryString"] = query
    event["headers"] |= {name.replace("_", "-"): value for name, value in headers.items()}
    return event


class Environment:
    """One execution environment: the function's process, and what invokes it."""

    def __init__(self, stack: ExitStack, kind: str, folder: Path, settings: dict[str, str]) -> None:
        function = {"AWS_LAMBDA_FUNCTION_NAME": "tidewire-stream", "PYTHON": str(ROOT / ".venv" / "bin" / "python")}
        script = str(ROOT / "functions" / "run_stream.sh")
        self.process = Instance(folder, {**function, **settings}, command=[script])
        stack.callback(self.process.stop)
        self.process.start()
        self.api = stack.enter_context(RuntimeApi())
        stack.enter_context(adapter(kind, self.api, self.process.port))


MakeEnvironment = Callable[..., Environment]


@pytest.fixture(params=ADAPTERS)
def environment(
    request: pytest.FixtureRequest, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeEnvironment]:
    """Starts an environment on the shared Redis."""
    with ExitStack() as stack:

        def make(**settings: str) -> Environment:
            common = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": redis_url, "REALTIME_AUTH": "none"}
            folder = tmp_path_factory.mktemp("environment")
            return Environment(stack, str(request.param), folder, {**common, **settings})

        yield make


def test_events_are_streamed_one_by_one(environment: MakeEnvironment, redis_url: str) -> None:
    function = environment()
    invocation = function.api.invoke(request())
    answer = invocation.prelude()
    assert answer["statusCode"] == 200
    assert answer["headers"]["content-type"] == "text/event-stream"
    assert invocation.headers["lambda-runtime-function-response-mode"] == "streaming"
    events = invocation.events()
    assert next(events).type == "realtime.ready"
    for n in range(3):
        append(redis_url, n)
        assert next(events).data == str(n)  # it is there before the next one is published
    assert not invocation.ended_at


def test_a_stream_ends_before_the_deadline_and_resumes(environment: MakeEnvironment, redis_url: str) -> None:
    first, second = environment(), environment()
    append(redis_url, 0)
    invocation = first.api.invoke(request("from=earliest"), seconds=3.0)  # below REALTIME_STREAM_SECONDS, 300 on Lambda
    invocation.prelude()
    seen = []
    for event in invocation.events():
        seen.append((event.type, event.data))
        if event.type == "realtime.ready":
            append(redis_url, 1)
    assert seen[-1] == ("realtime.closing", '{"reason":"max-age"}')
    assert invocation.ended_at < invocation.deadline
    append(redis_url, 2, 3)  # while no client is connected
    resumed = second.api.invoke(request(last_event_id=invocation.cursor))
    resumed.prelude()
    events = resumed.events()
    rest = [(event.type, event.data) for event in itertools.islice(events, 3)]
    assert rest[:2] == [("t", "2"), ("t", "3")]
    assert json.loads(rest[2][1]) == {"recovered": True, "replayed": 2}
    assert [data for type, data in [*seen, *rest] if type == "t"] == ["0", "1", "2", "3"]


def test_a_thawed_environment_recovers_lost_connections(
    environment: MakeEnvironment, redis_url: str, redis_server: RedisServer
) -> None:
    function = environment()
    invocation = function.api.invoke(request(), seconds=2.5)
    invocation.prelude()
    assert [event.type for event in invocation.events()] == ["realtime.ready", "realtime.closing"]
    function.process.pause()
    assert redis_server.ask("CLIENT KILL TYPE normal SKIPME yes") != ":0", "it had connections"
    append(redis_url, 1)
    function.process.resume()
    thawed = function.api.invoke(request(last_event_id=invocation.cursor))
    thawed.prelude()
    events = thawed.events()
    assert next(events).data == "1"
    assert next(events).type == "realtime.ready"
    append(redis_url, 2)
    assert next(events).data == "2"
    assert "Traceback" not in function.process.log()


def test_one_environment_serves_many_invocations(
    environment: MakeEnvironment,
) -> None:
    """Refusals are complete, logged responses."""
    function = environment(REALTIME_AUTH="required", REALTIME_JWT_SECRET="s" * 32, REALTIME_LOG_LEVEL="debug")
    ids = []
    for path, status in (("/api/events", 401), ("/api/nothing", 404), ("/api/health/live", 200)):
        event = request()
        event["rawPath"] = event["requestContext"]["http"]["path"] = path
        invocation = function.api.invoke(event)
        answer = invocation.prelude()
        assert answer["statusCode"] == status
        assert json.loads(invocation.body())
        ids.append(answer["headers"]["x-request-id"])
    logged = map(json.loads, function.process.log().splitlines()[1:])
    served = {line["request_id"]: (line["route"], line["status"]) for line in logged if line["message"] == "request"}
    wanted = [("/api/events", 401), ("-", 404), ("/api/health/live", 200)]
    assert {id: served[id] for id in ids} == dict(zip(ids, wanted, strict=True))


def test_a_wrong_setting_ends_the_process_with_one_line(tmp_path: Path) -> None:
    script = str(ROOT / "functions" / "run_stream.sh")
    settings = {**inherited(), "PYTHON": str(ROOT / ".venv" / "bin" / "python"), "REALTIME_TRANSPORT": "eventbridge"}
    settings |= {"REALTIME_AUTH": "none", "AWS_REGION": "eu-central-1"}
    began = time.monotonic()
    ended = subprocess.run([script], cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("tidewire: REALTIME_TRANSPORT: eventbridge is for functions that publish")
    assert ended.stderr.count("\n") == 1
    assert time.monotonic() - began < 10
