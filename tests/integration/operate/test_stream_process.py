"""The stream process reports to CloudWatch once a minute: the lag of its tail, and its metrics."""

import inspect
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tidewire.http import stream_server
from tidewire.http.stream_server import StreamServer

from tests.contract.acts import publish
from tests.support.asgi_client import Request
from tests.support.processes import ROOT, MakeRedis
from tests.support.waiting import eventually

Lines = Callable[[int], Any]


@pytest.fixture(autouse=True)
def short_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_server, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(stream_server, "CHECKS_PER_REPORT", 3)


@pytest.fixture
async def server(request: pytest.FixtureRequest) -> AsyncIterator[StreamServer]:
    """The stream's app on Lambda, with further settings."""
    settings = {"AWS_LAMBDA_FUNCTION_NAME": "tidewire-prod-stream", **getattr(request, "param", {})}
    server = StreamServer(settings)
    yield server
    await server.aclose()


@pytest.fixture
def reports(capsys: pytest.CaptureFixture[str]) -> Lines:
    """Returns the lines for CloudWatch since the last call, at least `count`."""

    async def take(count: int) -> list[dict[str, Any]]:
        text = ""

        def printed() -> bool:
            nonlocal text
            text += capsys.readouterr().out
            return text.count("\n") >= count

        await eventually(printed)
        return [json.loads(line) for line in text.splitlines()]

    return take


def lag(line: dict[str, Any]) -> float:
    """The metric of the alarm in deploy/alarms.yml."""
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "Tidewire"
    assert directive["Dimensions"] == [["FunctionName"]]
    assert directive["Metrics"] == [{"Name": "TailLag", "Unit": "Seconds"}]
    assert line["FunctionName"] == "tidewire-prod-stream"
    (seconds,) = line["TailLag"]
    return float(seconds)


async def test_the_tail_lag_is_reported_and_then_its_recovery(server: StreamServer, reports: Lines) -> None:
    async with Request(server) as stream:
        await stream.until_event("realtime.ready")
        assert {lag(line) for line in await reports(1)} == {0.0}
        clock = server.hub.fanout.clock
        server.hub.fanout.clock = lambda: clock() + 12
        await publish(server.hub.transport, 1, 2)
        await stream.until(lambda: stream.events[-1].data == "2")
        server.hub.fanout.clock = clock
        await publish(server.hub.transport, 3)
        lags = [0.0]
        while not (max(lags) and lags[-1] < 5):
            lags += [lag(line) for line in await reports(1)]
        assert [12 <= seconds < 20 for seconds in lags if seconds > 5] == [True]


async def test_events_appended_without_subscribers_are_no_lag(server: StreamServer, reports: Lines) -> None:
    async with Request(server) as stream:
        await stream.until_event("realtime.ready")
    clock = server.hub.fanout.clock
    server.hub.fanout.clock = lambda: clock() + 3_600  # as after hours in the freezer
    await publish(server.hub.transport, 1, 2)
    async with Request(server, query="from=earliest") as stream:
        await stream.until_event("realtime.ready")
        assert {lag(line) for line in await reports(2)} == {0.0}


@pytest.mark.parametrize("server", [{"REALTIME_METRICS_NAMESPACE": "Ours"}], indirect=True)
async def test_metrics_are_reported_under_the_namespace(server: StreamServer, reports: Lines) -> None:
    async with Request(server) as stream:
        await stream.until_event("realtime.ready")
        await publish(server.hub.transport, 1, 2)
        sums: dict[str, float] = {}
        while sums.get("realtime_deliveries", 0) < 2:
            for line in await reports(1):
                if line["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Ours" and "realtime_deliveries" in line:
                    sums["realtime_deliveries"] = sums.get("realtime_deliveries", 0) + line["realtime_deliveries"][0]
    assert sums == {"realtime_deliveries": 2.0}


async def test_a_tail_that_is_unavailable_is_a_lag_that_grows(make_redis: MakeRedis, reports: Lines) -> None:
    redis = make_redis(aof=False)
    settings = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": redis.url, "REALTIME_AUTH": "none"}
    server = StreamServer({**settings, "AWS_LAMBDA_FUNCTION_NAME": "tidewire-prod-stream"})
    async with Request(server) as stream:
        await stream.until_event("realtime.ready")
        redis.kill()
        await reports(1)
        lags = [lag(line) for line in await reports(3)]
        assert 0 < lags[0] < lags[1] < lags[2]
    await server.aclose()


async def test_no_report_without_streams_or_outside_lambda(
    server: StreamServer, capsys: pytest.CaptureFixture[str], reports: Lines
) -> None:
    elsewhere = StreamServer({})
    async with Request(elsewhere) as stream, Request(server) as sentinel:
        await stream.until_event("realtime.ready")
        await sentinel.until_event("realtime.ready")
        assert {lag(line) for line in await reports(2)} == {0.0}
    await elsewhere.aclose()
    capsys.readouterr()
    looks = 0
    real = inspect.getattr_static(server.hub, "tail_running")

    def count(hub: Any) -> bool:
        nonlocal looks
        looks += 1
        return bool(real.fget(hub))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(server.hub), "tail_running", property(count))
        await eventually(lambda: looks > 8)
    assert capsys.readouterr().out == ""


def test_the_alarm_reads_the_metric_of_the_process() -> None:
    alarm = (ROOT / "deploy" / "alarms.yml").read_text().split("TailLagAlarm:")[1]
    assert f"Namespace: {stream_server.LAG_NAMESPACE}\n" in alarm
    assert "MetricName: TailLag\n" in alarm
    assert "- {Name: FunctionName, Value: '${self:service}-${sls:stage}-stream'}\n" in alarm
