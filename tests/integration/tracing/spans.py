"""A tracer whose spans stay in this process."""

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext
from tidewire.model.partitions import Partitions
from tidewire.monitoring.opentelemetry import Tracing


class Recorded:
    """The spans that one process has ended; `tracer` is what its hub gets."""

    def __init__(self, partitions: Partitions = Partitions()) -> None:
        provider = TracerProvider(shutdown_on_exit=False)
        self._exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = Tracing(provider, partitions, "memory")

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]


def place(context: SpanContext | None) -> tuple[int, int]:
    """What names a span to another process: its trace and itself."""
    assert context is not None
    return context.trace_id, context.span_id
