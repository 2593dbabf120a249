"""A stand-in for an OpenTelemetry collector: receives spans by OTLP over HTTP, and keeps them for tests."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from tests.support.processes import HOST, wait_until

ARRIVES_SECONDS = 10.0  # an exporter with a short delay takes 0.1 s; the rest is for a busy machine


class Span(NamedTuple):
    """One span, as it came; ids in hex."""

    service: str
    instance: str
    name: str
    kind: int
    trace_id: str
    id: str
    parent: str
    links: tuple[str, ...]  # span ids
    attributes: dict[str, Any]
    start: int  # ns since 1970
    end: int
    failed: bool


class Collector:
    """Answers POST /v1/traces with `status`, and keeps the spans if that is 200."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.bodies = b""
        self.headers: list[dict[str, str]] = []
        self.status = 200
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector._take(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.server_address[1]}"

    @property
    def settings(self) -> dict[str, str]:
        """What makes an instance send its spans here, soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def until(self, condition: Callable[[], object]) -> None:
        """Returns once the condition is true; fails after a time limit."""
        try:
            wait_until(lambda: bool(condition()), ARRIVES_SECONDS)
        except TimeoutError:
            raise AssertionError(f"came: {self.spans}") from None

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        assert path == "/v1/traces"
        self.headers.append(headers)
        if self.status != 200:
            return
        self.bodies += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = _attributes(resource.resource.attributes)
            self.spans += [
                Span(
                    about["service.name"],
                    about["service.instance.id"],
                    span.name,
                    span.kind,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    tuple(link.span_id.hex() for link in span.links),
                    _attributes(span.attributes),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.status.code == span.status.STATUS_CODE_ERROR,
                )
                for scope in resource.scope_spans
                for span in scope.spans
            ]


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    kind = pair.value.WhichOneof("value")
    return None if kind is None else getattr(pair.value, kind)
