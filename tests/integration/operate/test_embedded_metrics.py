"""Metrics of functions for CloudWatch: valid lines, only changes, and none without a namespace."""

import io
import json
import subprocess
import sys
from typing import Any

import pytest
from tidewire.delivery.hub import Hub
from tidewire.monitoring.cloudwatch import EmbeddedMetrics
from tidewire.primitives.counters import WEBHOOKS
from tidewire.settings.config import Settings
from tidewire.transports.memory import MemoryLog

from tests.contract.acts import event
from tests.support.processes import ROOT, inherited

Line = dict[str, Any]


def lines(output: io.StringIO) -> list[Line]:
    """The lines printed since the last call."""
    written = [json.loads(line) for line in output.getvalue().splitlines()]
    output.seek(0)
    output.truncate()
    return written


def metrics_of(line: Line) -> dict[str, str]:
    """The unit of each metric of a line, by the specification of the embedded metric format."""
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "Test"
    assert isinstance(line["_aws"]["Timestamp"], int)
    for dimension in directive["Dimensions"][0]:
        assert isinstance(line[dimension], str)
    for metric in directive["Metrics"]:
        assert all(isinstance(value, float) for value in line[metric["Name"]])
    return {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]}


async def test_a_line_has_only_the_changes_since_the_previous_one() -> None:
    output = io.StringIO()
    async with Hub(MemoryLog()) as hub:
        metrics = EmbeddedMetrics(hub, "Test", "publish", output=output)
        metrics.report()
        assert lines(output) == []
        await hub.dispatch([event(1), event(2)])
        metrics.report()
        (line,) = lines(output)
        assert metrics_of(line) == {"realtime_published": "Count", "realtime_publish_seconds": "Seconds"}
        assert line["realtime_published"] == [2.0]
        assert line["FunctionName"] == "publish"
        await hub.dispatch([event(3)])
        metrics.report()
        (line,) = lines(output)
        assert line["realtime_published"] == [1.0]


async def test_labels_are_dimensions_of_a_line_of_their_own() -> None:
    output = io.StringIO()
    async with Hub(MemoryLog()) as hub:
        metrics = EmbeddedMetrics(hub, "Test", "webhooks", output=output)
        WEBHOOKS.add("github", "accepted")
        WEBHOOKS.add("github", "bad-signature", by=2)
        metrics.report()
    counts = {line["verdict"]: line["realtime_webhooks"] for line in lines(output) if metrics_of(line)}
    assert counts == {"accepted": [1.0], "bad-signature": [2.0]}


async def test_without_a_namespace_nothing_is_reported() -> None:
    async with Hub(MemoryLog()) as hub:
        assert EmbeddedMetrics.from_settings(hub, Settings(), {}) is None


INVOKE = """
import json, sys
from functions import publish
event = json.load(open("bench/yardsticks/publish_event.json"))
answer = publish.handler(event, None)
print(answer["statusCode"], "aws_lambda_powertools" in sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize("namespace", ["", "Test"])
def test_a_handler_imports_the_format_only_if_configured(namespace: str) -> None:
    asked = {"REALTIME_METRICS_NAMESPACE": namespace, "AWS_LAMBDA_FUNCTION_NAME": "f", "REALTIME_AUTH": "none"}
    done = subprocess.run(
        [sys.executable, "-c", INVOKE],
        cwd=ROOT,
        env={**inherited(), **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.split() == ["202", str(bool(namespace))]
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    assert [metrics_of(line)["realtime_published"] for line in printed] == (["Count"] if namespace else [])
