"""A function that starts cold imports nothing that it does not call."""

import subprocess
import sys

from tests.processes import ROOT


def test_a_log_on_redis_starts_without_the_client_library() -> None:
    start = "import tidewire.wiring, tidewire.transports.redis.streams, sys; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", start], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    loaded = {name.split(".")[0] for name in told.split()}
    assert "hiredis" in loaded
    assert loaded.isdisjoint({"redis", "certifi", "opentelemetry"})


def test_pubsub_starts_without_the_metrics_that_nobody_asks_it_for() -> None:
    start = "import tidewire.wiring, tidewire.transports.redis.pubsub, sys; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", start], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "redis.observability.providers" in told.split()
    assert {"opentelemetry", "google.protobuf"}.isdisjoint(told.split())


def test_who_has_opentelemetry_already_keeps_it_whole_when_redis_is_imported() -> None:
    start = (
        "import opentelemetry.trace, tidewire.transports.redis.pubsub, sys\n"
        "from redis.observability import providers\n"
        "import opentelemetry.sdk.metrics\n"
        "print(providers.OTEL_AVAILABLE)"
    )
    told = subprocess.run([sys.executable, "-c", start], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told.split() == ["False"]
