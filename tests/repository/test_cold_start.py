"""A function that starts cold imports nothing that it does not call."""

import ast
import subprocess
import sys

from tests.support.processes import ROOT


def loaded_by(start: str) -> set[str]:
    """The packages that a new process has imported after a statement."""
    names = subprocess.run(
        [sys.executable, "-c", f"{start}\nimport sys; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {name.split(".")[0] for name in names.split()}


def test_redis_streams_start_without_redis_py() -> None:
    loaded = loaded_by("import tidewire.wiring, tidewire.transports.redis.streams")
    assert "hiredis" in loaded
    assert loaded.isdisjoint({"redis", "certifi", "opentelemetry"})


def test_upstash_starts_without_the_vendors_client() -> None:
    loaded = loaded_by("import tidewire.wiring, tidewire.transports.upstash.rest_log")
    assert "httptools" in loaded
    assert loaded.isdisjoint({"redis", "hiredis", "httpx", "upstash_redis", "certifi", "opentelemetry"})


def test_nothing_edits_sys_modules() -> None:
    """Pub/Sub did, to keep OpenTelemetry out of redis-py's import."""
    for path in (ROOT / "shared").rglob("*.py"):
        used = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
        assert not [node for node in used if ast.unparse(node) == "sys.modules"], path
