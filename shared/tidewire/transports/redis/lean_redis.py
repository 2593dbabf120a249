"""redis-py without OpenTelemetry, for functions that start cold.

`import redis` brings the metrics SDK of OpenTelemetry along where that is installed: two fifths of the import, for
metrics that nobody here asks redis-py for. Where it cannot be imported redis-py goes without, by its own design.
"""

import importlib
import sys
from typing import Any

_METRICS = ("opentelemetry.metrics", "opentelemetry.sdk.metrics")


def load() -> None:
    """Import redis; does nothing where it has been imported already."""
    if "redis" in sys.modules:
        return
    # The whole of it, or it would be there as an empty package; but whoever has it already keeps it.
    kept_out = _METRICS if "opentelemetry" in sys.modules else ("opentelemetry",)
    modules: dict[str, Any] = sys.modules  # None makes an import fail (Python's import system, section 5.3.1)
    hidden = [name for name in kept_out if name not in modules]
    modules.update(dict.fromkeys(hidden))
    try:
        importlib.import_module("redis.asyncio")
    finally:
        for name in hidden:
            del modules[name]


load()
