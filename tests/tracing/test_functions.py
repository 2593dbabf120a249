"""Functions: what was traced is sent before the invocation returns, because the process may be frozen then."""

import pytest

from tests.tracing.collector import Collector
from tests.tracing.test_switching import PUBLISH, TRACEPARENT, python

RECEIVE = """
import sys
from functions import receive
detail = {"type": "t", "data": 1, "traceparent": sys.argv[1]}
answer = receive.handler({"source": "tidemark", "detail-type": "t", "id": "of-the-bus", "detail": detail}, None)
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
