"""Tracing off, on, misconfigured, or with a dead collector: it costs no event and no cold start."""

import json
import subprocess
import sys
import threading
import time
from functools import partial

import pytest
from tidewire.errors import SettingsError
from tidewire.monitoring import opentelemetry
from tidewire.settings.config import Settings
from tidewire.wiring import make_hub

from tests.contract.acts import event
from tests.integration.tracing.collector import Collector
from tests.support.api import Api, unique
from tests.support.processes import ROOT, MakeInstance, inherited, wait_until
from tests.support.waiting import eventually

PUBLISH = """
import asyncio, json, sys
from functions import publish
request = {"method": "POST", "path": "/api/publish", "sourceIp": "192.0.2.1"}
event = {
    "version": "2.0", "rawPath": "/api/publish", "rawQueryString": "", "requestContext": {"http": request},
    "headers": {"content-type": "application/json", "traceparent": sys.argv[1]},
    "body": json.dumps({"type": "t", "data": 1, "id": "traced"}), "isBase64Encoded": False,
}
assert publish.handler(event, None)["statusCode"] == 202
print(*sys.modules)
"""
EXPORTING = "OtelBatchSpanRecordProcessor"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def has_requests(collector: Collector, count: int) -> bool:
    return len(collector.headers) >= count


def python(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**inherited(), **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("transport", ["memory", "redis"])
def test_without_tracing_a_publish_imports_none_of_it(transport: str, redis_url: str) -> None:
    off = {
        "OTEL_SERVICE_NAME": "tidewire",
        "OTEL_EXPORTER_OTLP_HEADERS": "key=hunter2",
    }  # enables nothing
    store = {"REALTIME_TRANSPORT": transport, "REDIS_URL": redis_url, "REALTIME_AUTH": "none"}
    ran = python(PUBLISH, TRACEPARENT, **store, **off)
    assert ran.returncode == 0, ran.stderr
    loaded = {name.split(".")[0] for name in ran.stdout.split()}
    assert transport == "memory" or "hiredis" in loaded
    assert loaded.isdisjoint({"opentelemetry", "google", "requests"})


def test_missing_tracing_packages_stop_the_start() -> None:
    start = "import sys; sys.modules['opentelemetry'] = None\nfrom functions.local import main; sys.exit(main())"
    ran = python(start, OTEL_EXPORTER_OTLP_ENDPOINT="http://hunter2.example:4318", PORT="0")
    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert line.startswith("tidewire: OTEL_EXPORTER_OTLP_ENDPOINT: ")
    assert "requirements-tracing.txt" in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    "off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}], ids=["disabled", "none"]
)
def test_traces_can_be_disabled_despite_an_endpoint(off: dict[str, str]) -> None:
    """A platform may set the endpoint for all deployments."""
    assert make_hub(Settings.from_env({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", **off})).tracer is None


async def test_an_endpoint_enables_traces_sent_with_its_key() -> None:
    with Collector() as collector:
        key = {
            "OTEL_EXPORTER_OTLP_HEADERS": "x-key=hunter2"
        }  # may come from a secret store: never read from os.environ
        hub = make_hub(Settings.from_env({"OTEL_EXPORTER_OTLP_ENDPOINT": f"{collector.url}/", **key}))
        await hub.dispatch([event(1)])
        assert collector.spans == [], "nothing is sent for five seconds, unless it ends"
        await hub.aclose()
        (span,) = collector.spans
        assert (span.service, span.name, span.parent) == ("tidewire", "append all", "")
        assert [headers["x-key"] for headers in collector.headers] == ["hunter2"]


def test_an_unreachable_collector_costs_one_log_line(
    make_instance: MakeInstance,
) -> None:
    kind = unique()
    with Collector() as collector:
        collector.status = 503
        # Given up at once; by default each batch is tried for ten seconds.
        instance = make_instance(**collector.settings, OTEL_EXPORTER_OTLP_TIMEOUT="0.5", REALTIME_LOG_FORMAT="json")
        api = Api(instance)
        with api.stream(types=kind) as stream:
            stream.ready()
            for number in range(3):
                api.publish({"type": kind, "data": number})
                assert stream.next().data == str(number)
                collector.until(partial(has_requests, collector, number + 1))
            collector.status = 200
            api.publish({"type": kind, "data": 3})
            assert stream.next().data == "3"
            collector.until(lambda: collector.named("deliver all"))
        wait_until(lambda: "accepts traces again" in instance.log(), 5)
        logged = [json.loads(line) for line in instance.log().splitlines() if not line.startswith("Tidewire ")]
        api.close()
    about = [(line["level"], line["message"]) for line in logged if "trace" in line["message"]]
    assert [level for level, _ in about] == ["warning", "info"]
    assert about[0][1].endswith("of OTEL_EXPORTER_OTLP_ENDPOINT: status 503")


async def test_an_unreachable_collector_delays_the_end_briefly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(opentelemetry, "CLOSE_SECONDS", 0.1)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
    hub = make_hub(Settings.from_env({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9/hunter2"}))
    for number in range(3):
        await hub.dispatch([event(number)])
        await eventually(lambda: "traces are lost" in caplog.text)
    began = time.monotonic()
    await hub.aclose()
    assert time.monotonic() - began < 1.5, "the exporter would try for three"
    assert [record.getMessage().rsplit(": ", 1)[1] for record in caplog.records] == ["ConnectionError"]
    assert "hunter2" not in caplog.text
    # Its threads draw random waits until they give up, and no test after this one may be disturbed by that.
    await eventually(lambda: not any(thread.name in ("tracing", EXPORTING) for thread in threading.enumerate()))


def test_an_exporter_that_is_none_of_ours_is_refused() -> None:
    with pytest.raises(SettingsError, match="OTEL_TRACES_EXPORTER: must be none, otlp, console, or otlp,console"):
        Settings.from_env({"OTEL_TRACES_EXPORTER": "otlp,zipkin"})
