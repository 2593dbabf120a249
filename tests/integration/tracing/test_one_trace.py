"""One trace from a client's request to the processes that deliver, over a log that they share."""

import hmac
import json
from contextlib import ExitStack

from opentelemetry.proto.trace.v1.trace_pb2 import Span as Proto

from tests.integration.tracing.collector import Span
from tests.integration.tracing.conftest import SECRET, Pair
from tests.support.api import unique
from tests.support.processes import wait_until

TRACE = "4bf92f3577b34da6a3ce929d0e0e47{:02x}"
CLIENT = "00f067aa0ba902b7"
CANARY = "canary-41d7"


def traceparent(number: int, flags: str = "01") -> str:
    return f"00-{TRACE.format(number)}-{CLIENT}-{flags}"


def all_of(pair: Pair, number: int, count: int) -> list[Span]:
    """The spans of a trace, as soon as there are this many."""

    def found() -> list[Span]:
        return [span for span in pair.collector.spans if span.trace_id == TRACE.format(number)]

    pair.collector.until(lambda: len(found()) >= count)
    assert len(found()) == count, found()
    return found()


def spans_of(pair: Pair, number: int, count: int) -> dict[tuple[str, str], Span]:
    """The same by service and name."""
    return {(span.service, span.name): span for span in all_of(pair, number, count)}


def test_one_trace_spans_publish_and_delivery(pair: Pair) -> None:
    """The delivery is in another process."""
    kind = unique()
    with pair.streams.stream(types=kind) as stream:
        stream.ready()
        event = {"type": kind, "data": CANARY, "id": "task-7", "userIds": None}
        pair.publisher.publish(event, traceparent=traceparent(1), tracestate="vendor=a,other=b")
        assert stream.next().data == f'"{CANARY}"'
    spans = spans_of(pair, 1, 3)
    request, append = spans["publisher", "POST /api/publish"], spans["publisher", "append all"]
    deliver = spans["streams", "deliver all"]
    assert [request.parent, append.parent, deliver.parent] == [CLIENT, request.id, append.id]
    assert [request.kind, append.kind, deliver.kind] == [
        Proto.SPAN_KIND_SERVER,
        Proto.SPAN_KIND_PRODUCER,
        Proto.SPAN_KIND_CONSUMER,
    ]
    assert request.instance == append.instance != deliver.instance
    assert request.start <= append.start <= append.end <= request.end
    assert append.start <= deliver.start <= deliver.end
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/api/publish",
        "http.response.status_code": 202,
    }
    message = {"messaging.message.id": "task-7", "cloudevents.event_type": kind}
    log = {"messaging.system": "tidewire", "messaging.destination.name": "all"}
    assert append.attributes == {
        **message,
        **log,
        "messaging.operation.name": "append",
        "messaging.operation.type": "send",
        "realtime.transport": "redis",
    }
    assert deliver.attributes == {
        **message,
        **log,
        "messaging.operation.name": "deliver",
        "messaging.operation.type": "process",
        "messaging.message.body.size": len(CANARY) + 2,
        "realtime.matched": 1,
        "realtime.written": 1,
        "realtime.offset": deliver.attributes["realtime.offset"],
    }
    assert CANARY.encode() not in pair.collector.bodies


def test_a_delivery_is_one_span_per_process(
    pair: Pair,
) -> None:
    """With any number of subscribers."""
    kind, end = unique(), unique()
    with ExitStack() as stack:
        many = [stack.enter_context(pair.streams.stream(types=kind)) for _ in range(20)]
        one = stack.enter_context(pair.publisher.stream(types=f"{kind},{end}"))
        for stream in (*many, one):
            stream.ready()
        pair.publisher.publish({"type": kind, "data": 1}, traceparent=traceparent(2))
        pair.publisher.publish({"type": end, "data": 2}, traceparent=traceparent(3))
        for stream in (*many, one):
            assert stream.next().type == kind
    spans = spans_of(pair, 2, 4)
    attributes_of = {service: spans[service, "deliver all"].attributes for service in ("streams", "publisher")}
    assert [attributes_of[service]["realtime.written"] for service in ("streams", "publisher")] == [20, 1]
    # A process without a matching subscriber makes no span: the sentinel was for one process only.
    assert ("streams", "deliver all") not in spans_of(pair, 3, 3)


def test_a_batch_is_one_append_with_a_delivery_per_event(pair: Pair) -> None:
    kind = unique()
    with pair.streams.stream(types=kind) as stream:
        stream.ready()
        pair.publisher.publish(*({"type": kind, "data": n} for n in range(3)), traceparent=traceparent(4))
        assert [stream.next().data for _ in range(3)] == ["0", "1", "2"]
    spans = all_of(pair, 4, 5)
    (append,) = [span for span in spans if span.name == "append all"]
    deliveries = [span for span in spans if span.name == "deliver all"]
    assert append.attributes["messaging.batch.message_count"] == 3
    assert "messaging.message.id" not in append.attributes
    assert [span.parent for span in deliveries] == [append.id] * 3
    assert len({span.attributes["messaging.message.id"] for span in deliveries}) == 3


def test_an_invalid_traceparent_is_ignored(pair: Pair) -> None:
    """No event is lost."""
    kind = unique()
    zeros, good = "0" * 32, traceparent(5)
    wrong = [
        "",
        "hunter2",
        good.upper(),
        good[:-1],
        good + "-more",
        good.replace("00-", "ff-", 1),
        f"00-{zeros}-{CLIENT}-01",
        f"00-{TRACE.format(5)}-{zeros[:16]}-01",
        f"{good},{good}",
        good + "x" * 10_000,
        "\xe9" * 55,
    ]
    twice = [("content-type", "application/json"), ("traceparent", good), ("traceparent", good)]
    with pair.streams.stream(types=kind) as stream:
        stream.ready()
        for number, text in enumerate(wrong):
            pair.publisher.publish({"type": kind, "data": number}, traceparent=text)
        pair.publisher.http.post("/api/publish", content=f'{{"type":"{kind}","data":"twice"}}', headers=twice)
        assert [stream.next().data for _ in wrong] == [str(number) for number in range(len(wrong))]
        assert stream.next().data == '"twice"'

    def deliveries() -> list[Span]:
        spans = pair.collector.named("deliver all")
        return [span for span in spans if span.attributes["cloudevents.event_type"] == kind]

    pair.collector.until(lambda: len(deliveries()) == len(wrong) + 1)
    assert len({span.trace_id for span in deliveries()}) == len(wrong) + 1, "each is a trace of its own"
    assert TRACE.format(5) not in {span.trace_id for span in pair.collector.spans}


def test_no_trace_header_is_logged(pair: Pair) -> None:
    states = ["hunter2", "=,hunter2=", "hunter2=1," * 100, "\xe9"]
    for text in ("hunter2", traceparent(14) + "-hunter2" * 100, traceparent(14)):
        for state in states:
            pair.publisher.publish({"type": unique(), "data": 1}, traceparent=text, tracestate=state)
    all_of(pair, 14, 2 * len(states))
    log = pair.publisher.instance.log_file.read_text()
    assert "hunter2" not in log
    assert "maximum length" not in log, "a line for each would flood it"


def test_an_unsampled_trace_is_recorded_nowhere(pair: Pair) -> None:
    kind = unique()
    with pair.streams.stream(types=kind) as stream:
        stream.ready()
        pair.publisher.publish({"type": kind, "data": 1}, traceparent=traceparent(6, "00"))
        pair.publisher.publish({"type": kind, "data": 2}, traceparent=traceparent(7))
        assert [stream.next().data for _ in range(2)] == ["1", "2"]
    spans_of(pair, 7, 3)
    assert TRACE.format(6) not in {span.trace_id for span in pair.collector.spans}


def test_subscribers_see_only_the_event_s_own_trace(pair: Pair) -> None:
    kind, own = unique(), traceparent(9)
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": kind, "data": 1, "traceparent": own}
    with pair.streams.stream(types=kind, format="cloudevents") as stream:
        stream.ready()
        pair.publisher.publish({"type": kind, "data": 1}, traceparent=traceparent(8))
        sent = pair.publisher.post(json.dumps(event).encode(), "application/cloudevents+json")
        assert sent.status_code == 202
        plain, cloud = json.loads(stream.next().data), json.loads(stream.next().data)
    assert "traceparent" not in plain
    assert cloud["traceparent"] == own
    page = pair.publisher.page(types=kind, from_="earliest")
    assert "traceparent" not in json.dumps(page)


def test_a_refused_request_is_a_span_without_its_content(pair: Pair) -> None:
    pair.publisher.post(b'{"type": "hunter2"}', headers={"traceparent": traceparent(10)})
    spans = spans_of(pair, 10, 1)
    refused = spans["publisher", "POST /api/publish"]
    assert (refused.attributes["http.response.status_code"], refused.failed) == (400, False)
    pair.publisher.http.post("/api/webhooks/hunter2", headers={"traceparent": traceparent(11)})
    spans = spans_of(pair, 11, 1)
    assert spans["publisher", "POST /api/webhooks/{source}"].attributes["http.response.status_code"] == 404
    assert b"hunter2" not in pair.collector.bodies


def test_a_webhook_is_traced_as_a_publish_is(pair: Pair) -> None:
    body = b'{"number": 7}'
    signature = hmac.new(SECRET.encode(), body, "sha256").hexdigest()
    headers = {"content-type": "application/json", "x-signature": signature, "traceparent": traceparent(12)}
    answer = pair.publisher.http.post("/api/webhooks/shop", content=body, headers=headers)
    assert answer.status_code == 202, answer.text
    spans = spans_of(pair, 12, 2)
    request, append = spans["publisher", "POST /api/webhooks/{source}"], spans["publisher", "append all"]
    assert (request.parent, append.parent) == (CLIENT, request.id)


def test_the_log_line_of_a_request_names_its_trace(pair: Pair) -> None:
    pair.publisher.publish({"type": unique(), "data": 1}, traceparent=traceparent(13))
    trace = f'"trace_id":"{TRACE.format(13)}"'
    wait_until(lambda: trace in pair.publisher.instance.log_file.read_text(), 5)
