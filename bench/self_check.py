"""Checks the load client before a measurement: it must detect lost, duplicated and overtaken events."""

import sys
import tempfile
from pathlib import Path

from bench.client import Load
from bench.process import BenchError, Child, answers, free_port
from bench.servers import YARDSTICKS, Server

# path → the expected counts: deliveries, lost, duplicated, overtaken
VERDICTS = {
    "/good": (5, 0, 0, 0),
    "/bytes": (5, 0, 0, 0),
    "/crlf": (5, 0, 0, 0),
    "/plain": (5, 0, 0, 0),
    "/twice": (6, 0, 1, 0),
    "/swapped": (5, 0, 0, 1),
    "/hole": (4, 1, 0, 0),
}


def check_client() -> None:
    """Raise BenchError if the client counts wrong."""
    with tempfile.TemporaryDirectory(prefix="tidewire-bench-") as folder:
        tmp, port = Path(folder), free_port()
        argv = [sys.executable, str(YARDSTICKS / "faulty.py"), str(port)]
        with Child(argv, log=tmp / "faulty.log") as child:
            child.wait_until(lambda: answers(port), "faulty.py")
            for path, expected in VERDICTS.items():
                server = Server("faulty", child, port, port, path, "/", ready=True)
                with Load(server, log=tmp / "load.log", conns=1, mode="listen", events=5, timeout=0.5) as load:
                    first = load.step("connected", may_lose=True)
                    last = load.step("done", may_lose=True)
                found = (
                    first["deliveries"] + last["deliveries"],
                    *(last[k] for k in ("lost", "duplicated", "overtaken")),
                )
                if found != expected:
                    raise BenchError(f"the load client counts {found} for {path}, not {expected}")
