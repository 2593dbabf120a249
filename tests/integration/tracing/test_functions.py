"""Functions: spans are sent before the invocation returns, because the process may be frozen then."""

import pytest
from tidewire.settings.config import Settings
from tidewire.wiring import make_hub

from tests.contract.acts import event
from tests.integration.tracing.collector import Collector
from tests.integration.tracing.test_switching import PUBLISH, TRACEPARENT, python
from tests.support.waiting import eventually

RECEIVE = """
import sys
from functions import receive
detail = {"type": "t", "data": 1, "traceparent": sys.argv[1]}
answer = receive.handler({"source": "tidewire", "detail-type": "t", "id": "of-the-bus", "detail": detail}, None)
assert answer["events"][0]["duplicate"] is False
"""


@pytest.mark.parametrize(
    ("invoke", "names"),
    [(PUBLISH, ["append all", "POST /api/publish"]), (RECEIVE, ["append all"])],
    ids=["publish", "receive"],
)
def test_spans_are_sent_before_an_invocation_returns(invoke: str, names: list[str], redis_url: str) -> None:
    frozen = "\nimport os; os._exit(0)"  # nothing runs any more
    store = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": redis_url, "REALTIME_AUTH": "none"}
    with Collector() as collector:
        ran = python(invoke + frozen, TRACEPARENT, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **store)
        assert ran.returncode == 0, ran.stderr
        assert [span.name for span in collector.spans] == names
        trace_id, client = TRACEPARENT.split("-")[1:3]
        assert {span.trace_id for span in collector.spans} == {trace_id}
        assert collector.spans[-1].parent == client


def test_the_console_exporter_writes_to_standard_output() -> None:
    ran = python(PUBLISH, TRACEPARENT, OTEL_TRACES_EXPORTER="console")
    assert ran.returncode == 0, ran.stderr
    assert all(f'"name": "{name}"' in ran.stdout for name in ("append all", "POST /api/publish"))
    assert TRACEPARENT.split("-")[1] in ran.stdout


async def test_a_stream_on_lambda_exports_spans_while_open() -> None:
    with Collector() as collector:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "AWS_LAMBDA_FUNCTION_NAME": "stream"}
        async with make_hub(Settings.from_env(settings)) as hub:
            await hub.dispatch([event(1)])
            await eventually(lambda: bool(collector.spans), 4)  # elsewhere it takes five seconds
