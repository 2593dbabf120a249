"""A cold start as on Lambda: `python -m bench.first_call MODULE EVENT.json` imports a handler and calls it once.

Prints the cost beyond the start of the interpreter, which belongs to the platform.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NOT_DEPLOYED = ("rich", "pygments")
"""Developer packages that no bundle contains, but that httpx imports if they are installed."""


def main() -> None:
    """Print one line of JSON; exits with 1 if the handler fails."""
    event = json.loads(Path(sys.argv[2]).read_text())
    context = SimpleNamespace(aws_request_id="1", function_name="bench", get_remaining_time_in_millis=lambda: 10_000)
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(NOT_DEPLOYED))
    # No bundle has setuptools, whose hook would be called for each import.
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "_distutils_hack"]
    began, cpu = time.perf_counter(), time.process_time()
    module = importlib.import_module(sys.argv[1])
    imported, imported_cpu = time.perf_counter(), time.process_time()
    response = module.handler(event, context)
    ended, ended_cpu = time.perf_counter(), time.process_time()
    if not 200 <= response["statusCode"] < 300:
        sys.exit(f"{sys.argv[1]} returned {response}")
    found = {
        "cpu_ms": (ended_cpu - cpu) * 1e3,
        "import_cpu_ms": (imported_cpu - cpu) * 1e3,
        "call_cpu_ms": (ended_cpu - imported_cpu) * 1e3,
        "wall_ms": (ended - began) * 1e3,
        "import_wall_ms": (imported - began) * 1e3,
        "memory_mb": resident_mb(),
        "modules": len(sys.modules),
    }
    print(json.dumps(found), flush=True)
    os._exit(0)  # skips the shutdown of the interpreter


def resident_mb() -> float:
    """The memory that is resident now. The maximum (ru_maxrss) begins at that of the process that started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
