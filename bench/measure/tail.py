"""Append → record in another process, without HTTP: our transport to the bare XADD → XREAD BLOCK pair in C."""

import json
import os
import sys

from bench.client import redis_pair
from bench.process import run as run_program
from bench.servers import redis
from bench.session import Session
from bench.views import View

TITLE = "Append to received record"
VIEWS = [
    View("p50_us", "µs from before the append to after the read, p50", digits=0, plot=True),
    View("p99_us", "the same, p99", digits=0),
]

RATES = [17.0, 500.0]  # at a low rate the wake-up of an idle core is most of it, for both
SIZE = 200


def measure(session: Session) -> None:
    """Both unpinned: the kernel places the three processes of either pair."""
    for rate in RATES:
        events = max(int(rate * session.pick(5, 2)), 100)
        for run, who in session.rounds(["tidewire", "C pair"]):
            case = f"{rate:g}/s"
            with session.attempt(case, who, run) as stack:
                store = stack.enter_context(redis(session.tmp))
                if who == "C pair":
                    found = redis_pair(store.port, events=events, rate=rate, size=SIZE)
                else:
                    url = f"redis://127.0.0.1:{store.port}/0"
                    env = os.environ | {"REALTIME_TRANSPORT": "redis", "REALTIME_AUTH": "none", "REDIS_URL": url}
                    argv = [sys.executable, "-m", "bench.tail_pair", str(events), str(rate), str(SIZE)]
                    found = json.loads(run_program(argv, env=env))
                session.add(case, who, run, p50_us=found["latency_us"]["p50"], p99_us=found["latency_us"]["p99"])
