"""Spans for OpenTelemetry: the only module that imports it, imported only if traces are configured.

One trace covers the way from a publisher to the processes that deliver:

    POST /api/publish   server    child of the request's traceparent
    append all          producer  its context is stored in the record
    deliver all         consumer  child of the append; one per process that wrote the record to a subscriber

Attributes follow the semantic conventions for HTTP and messaging. They contain no user id, event data or credential.
"""

import asyncio
import contextlib
import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import msgspec
import requests
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.re import parse_env_headers

from tidewire.model.event import Event
from tidewire.model.partitions import Partitions
from tidewire.model.record import Record
from tidewire.settings.config import Settings
from tidewire.transports.base import Receipt

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0  # at the end of an invocation: a collector in the same region takes milliseconds
CLOSE_SECONDS = 2.0  # at the end of the process
LAMBDA_DELAY_MS = 500  # between two exports while streams are open: Lambda freezes the process after the last response

_SYSTEM = "tidewire"
_TRACE_CONTEXT = TraceContextTextMapPropagator()


class Tracing:
    """The tracer of one hub, with its exporters; implements `Tracer`."""

    def __init__(self, provider: TracerProvider, partitions: Partitions, transport: str) -> None:
        self._provider = provider
        self._partitions = partitions
        self._transport = transport
        self._tracer = provider.get_tracer(_SYSTEM)
        self._flushing: threading.Thread | None = None

    @classmethod
    def from_settings(cls, settings: Settings, partitions: Partitions) -> Self:
        """Return the tracer for these settings; the SDK reads its other variables from the environment by itself."""
        _silence()
        env = settings.variables
        # Not registered globally: no spans of other libraries are exported, and each hub shuts down its own provider.
        provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        own_delay = "AWS_LAMBDA_FUNCTION_NAME" in env and "OTEL_BSP_SCHEDULE_DELAY" not in env
        for exporter in settings.trace_exporters:
            span_exporter = _otlp(env) if exporter == "otlp" else ConsoleSpanExporter()
            delay = LAMBDA_DELAY_MS if own_delay else None
            provider.add_span_processor(BatchSpanProcessor(span_exporter, schedule_delay_millis=delay))
        return cls(provider, partitions, settings.transport)

    @contextlib.contextmanager
    def answer(self, method: str, route: str, headers: Mapping[str, str]) -> Iterator["_Answering"]:
        """Open the span of a request; see `Tracer.answer`."""
        attributes = {"http.request.method": method, "http.route": route}
        with self._span(f"{method} {route}", SpanKind.SERVER, attributes, _context_in(headers)) as span:
            yield _Answering(span)

    @contextlib.contextmanager
    def append(self, events: Sequence[Event]) -> Iterator["_Appending"]:
        """Open the span of a publish; see `Tracer.append`."""
        partitions = {name for event in events for name, _ in self._partitions.route(event)}
        first = events[0]
        attributes: dict[str, Any] = {
            **_messaging("append", "send", partitions),
            "realtime.transport": self._transport,
        }
        if len(events) == 1:
            attributes |= _message(first)
        else:
            attributes["messaging.batch.message_count"] = len(events)
        carried = [_context_of(event.traceparent, event.tracestate) for event in events]
        created = [_context_of(*_extension(event)) for event in events]
        parent = None if trace.get_current_span().get_span_context().is_valid else carried[0]
        links = _links([*carried, *created], but=trace.get_current_span(parent))
        name = f"append {_template(partitions)}"
        with self._span(name, SpanKind.PRODUCER, attributes, parent, links) as span:
            yield _Appending(span, events)

    def delivered(self, record: Record, matched: int, written: int, began: int, ended: int) -> None:
        """Record the span of a delivery; see `Tracer.delivered`."""
        event = record.event
        created = _context_of(*_extension(event))
        parent = _context_of(event.traceparent, event.tracestate) or created
        if parent is None:
            return
        span = self._tracer.start_span(
            f"deliver {_template({record.partition})}",
            parent,
            SpanKind.CONSUMER,
            {
                **_messaging("deliver", "process", {record.partition}),
                **_message(event),
                "messaging.message.body.size": len(event.data),
                "realtime.matched": matched,
                "realtime.written": written,
            },
            _links([created], but=trace.get_current_span(parent)),
            began,
        )
        if record.position is not None:
            span.set_attribute("realtime.offset", record.position.offset)
        span.end(ended)

    def flush(self) -> None:
        """Export the finished spans; see `Tracer.flush`."""
        # In a thread, because force_flush ignores its time limit (opentelemetry-python#4568). A flush that is still
        # running is waited for instead of starting another one behind it.
        if self._flushing is None or not self._flushing.is_alive():
            self._flushing = _in_background(self._provider.force_flush)
        self._flushing.join(FLUSH_SECONDS)

    async def aclose(self) -> None:
        """Export the finished spans and shut down; see `Tracer.aclose`."""
        await asyncio.to_thread(_in_background(self._provider.shutdown).join, CLOSE_SECONDS)

    @contextlib.contextmanager
    def _span(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, Any],
        parent: Context | None,
        links: Sequence[Link] = (),
    ) -> Iterator[Span]:
        """Open a span and make it current. An error is recorded by its class name: its text may contain anything."""
        span = self._tracer.start_span(name, parent, kind, attributes, links)
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield span
        except Exception as error:
            span.set_attribute("error.type", type(error).__name__)
            if kind is not SpanKind.SERVER:  # its status follows from the response
                span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            span.end()


class _Appending:
    """A running publish; see `tracer.Append`."""

    def __init__(self, span: Span, events: Sequence[Event]) -> None:
        carrier: dict[str, str] = {}
        _TRACE_CONTEXT.inject(carrier, trace.set_span_in_context(span))
        context = {"traceparent": carrier.get("traceparent"), "tracestate": carrier.get("tracestate")}
        self.events: Sequence[Event] = [msgspec.structs.replace(event, **context) for event in events]
        self._span = span

    def took(self, receipts: Sequence[Receipt]) -> None:
        """Record the transport's receipts."""
        if duplicates := sum(receipt.duplicate for receipt in receipts):
            self._span.set_attribute("realtime.duplicates", duplicates)
        if not all(receipt.durable for receipt in receipts):
            self._span.set_attribute("realtime.durable", value=False)


class _Answering:
    """A request that is being answered; see `tracer.Answering`."""

    def __init__(self, span: Span) -> None:
        self.trace_id = trace.format_trace_id(span.get_span_context().trace_id)
        self._span = span

    def answered(self, status: int) -> None:
        """Record the status of the response."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))


def _messaging(name: str, type: str, partitions: set[str]) -> dict[str, Any]:
    attributes = {"messaging.system": _SYSTEM, "messaging.operation.name": name, "messaging.operation.type": type}
    if len(partitions) == 1:
        attributes["messaging.destination.name"] = next(iter(partitions))
    return attributes


def _message(event: Event) -> dict[str, Any]:
    return {"messaging.message.id": event.id, "cloudevents.event_type": event.type}


def _template(partitions: set[str]) -> str:
    """Return the partition without its user shard, or `several`: span names must be few."""
    bases = {name.partition(":")[0] for name in partitions}
    return bases.pop() if len(bases) == 1 else "several"


def _context_in(headers: Mapping[str, str]) -> Context | None:
    """Return the parent context of a request; None selects the current context."""
    if trace.get_current_span().get_span_context().is_valid:  # an instrumentation around the app has read the headers
        return None
    return _context_of(headers.get("traceparent"), headers.get("tracestate"))


def _extension(event: Event) -> tuple[str | None, str | None]:
    """Return the trace context in the event's attributes (CloudEvents' Distributed Tracing extension)."""
    return event.attributes.get("traceparent"), event.attributes.get("tracestate")


def _context_of(traceparent: str | None, tracestate: str | None) -> Context | None:
    """Return the context in a traceparent; None if it is missing or not valid."""
    if traceparent is None:
        return None
    carrier = {"traceparent": traceparent} | ({} if tracestate is None else {"tracestate": tracestate})
    context = _TRACE_CONTEXT.extract(carrier, Context())
    return context if trace.get_current_span(context).get_span_context().is_valid else None


def _links(contexts: Sequence[Context | None], but: Span) -> list[Link]:
    """Return one link per distinct span, without the parent."""
    spans = [trace.get_current_span(context).get_span_context() for context in contexts if context is not None]
    others = {span.span_id: span for span in spans if span.span_id != but.get_span_context().span_id}
    return [Link(span) for span in others.values()]


def _resource() -> Resource:
    """Return the attributes of this process; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence."""
    found = Resource.create().attributes
    own = {"service.name": _SYSTEM, "service.instance.id": str(uuid.uuid4())}
    is_named = not str(found["service.name"]).startswith("unknown_service")
    return Resource({**own, **{name: value for name, value in found.items() if is_named or name not in own}})


def _otlp(env: Mapping[str, str]) -> SpanExporter:
    """Return the exporter for the endpoint and headers in the settings, which may come from a secret store."""
    endpoint = env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if endpoint is None and (base := env.get("OTEL_EXPORTER_OTLP_ENDPOINT")) is not None:
        endpoint = base.removesuffix("/") + "/v1/traces"
    headers = env.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS") or env.get("OTEL_EXPORTER_OTLP_HEADERS", "")
    return OTLPSpanExporter(endpoint, headers=parse_env_headers(headers, liberal=True), session=_Session())


class _Session(requests.Session):
    """Logs once that the collector fails, and once that it has recovered."""

    _lost = False

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        """Send, and log a change between success and failure."""
        try:
            response = super().request(*arguments, **options)
        except requests.RequestException as error:
            self._note(type(error).__name__)  # its text may contain the URL, with a key
            raise
        self._note(None if response.ok else f"status {response.status_code}")
        return response

    def _note(self, why: str | None) -> None:
        if why is not None and not self._lost:
            logger.warning("traces are lost: cannot send them to the collector of OTEL_EXPORTER_OTLP_ENDPOINT: %s", why)
        elif why is None and self._lost:
            logger.info("the collector accepts traces again")
        self._lost = why is not None


def _silence() -> None:
    """Silence OpenTelemetry's own log lines: some contain URLs, once per lost batch, others a client trace context."""
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    logging.getLogger("opentelemetry.util.re").setLevel(logging.CRITICAL)
    logging.getLogger("opentelemetry.trace").setLevel(logging.CRITICAL)


def _in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, name="tracing", daemon=True)  # it must not delay the end of the process
    thread.start()
    return thread
