"""A cold start, as Lambda does it: `python -m bench.first_call MODULE EVENT.json` imports a handler and calls it once.

Prints what that took beyond the bare interpreter, which is the platform's own.
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
"""What only tools of the developer bring: httpx imports them where they are, and no bundle has them."""


def main() -> None:
    """Print one JSON line; exits with 1 where the handler did not succeed."""
    event = json.loads(Path(sys.argv[2]).read_text())
    context = SimpleNamespace(aws_request_id="1", function_name="bench", get_remaining_time_in_millis=lambda: 10_000)
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(NOT_DEPLOYED))
    began, cpu = time.perf_counter(), time.process_time()
    module = importlib.import_module(sys.argv[1])
    imported, imported_cpu = time.perf_counter(), time.process_time()
    answer = module.handler(event, context)
    ended, ended_cpu = time.perf_counter(), time.process_time()
    if not 200 <= answer["statusCode"] < 300:
        sys.exit(f"{sys.argv[1]} answered {answer}")
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
    os._exit(0)  # what an interpreter does when it ends is not part of a start


def resident_mb() -> float:
    """The memory that is resident now. The maximum (ru_maxrss) begins at that of the process that started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
