"""Cold start: import and first invocation of a Lambda handler in a fresh process, to a Mangum(Starlette) hello."""

import compileall
import json
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.process import run as run_program
from bench.servers import YARDSTICKS, redis, upstash
from bench.session import Session
from bench.views import View

TITLE = "Cold start"
VIEWS = [
    View("cpu_ms", "CPU ms, import and first invocation, above the bare interpreter", plot=True),
    View("import_cpu_ms", "of it import"),
    View("wall_ms", "wall ms, import and first invocation"),
    View("memory_mb", "MB resident at the end"),
    View("modules", "modules loaded", digits=0),
    View("bundle_mb", "MB of the zip that is deployed", digits=2),
]

BUNDLE = Path("build/bundle.zip")
PACKAGES = (  # that a start imports
    *("anyio", "certifi", "h11", "httpcore", "httpx", "idna", "jmespath", "mangum", "msgspec"),
    *("prometheus_client", "redis", "starlette", "upstash_redis"),
)
STARTS = 3  # a sample is the median of so many processes


@dataclass(frozen=True, slots=True)
class Start:
    """A handler and the settings that it starts with."""

    module: str
    event: str
    transport: str = "memory"


OURS = {
    "publish, memory": Start("functions.publish", "publish_event.json"),
    "publish, Upstash REST": Start("functions.publish", "publish_event.json", "upstash"),
    "publish, Redis TCP": Start("functions.publish", "publish_event.json", "redis"),
    "ops (health)": Start("functions.ops", "health_event.json"),
}
HELLO = Start("hello_lambda", "publish_event.json")


def measure(session: Session) -> None:
    """The hello starts in every round beside each of ours. Bytecode is compiled before: a bundle ships it."""
    installed = Path(sysconfig.get_path("purelib"))
    for folder in (Path("shared"), Path("functions"), Path("bench"), *(installed / package for package in PACKAGES)):
        compileall.compile_dir(folder, quiet=1)
    with session.attempt("stores", "redis", 0) as stack:
        store = stack.enter_context(redis(session.tmp))
        rest = stack.enter_context(upstash(session.tmp, store.port))
        url = f"redis://127.0.0.1:{store.port}/0"
        settings = {
            "memory": {"REALTIME_TRANSPORT": "memory"},
            "redis": {"REALTIME_TRANSPORT": "redis", "REDIS_URL": url},
            "upstash": {
                "REALTIME_TRANSPORT": "redis",
                "UPSTASH_REDIS_REST_URL": f"http://127.0.0.1:{rest.port}",
                "UPSTASH_REDIS_REST_TOKEN": "bench",
            },
        }
        for case, start in OURS.items():
            for run, who in session.rounds(["tidewire", "hello"]):
                with session.attempt(case, who, run):
                    chosen = start if who == "tidewire" else HELLO
                    session.add(case, who, run, **cold(session, chosen, settings[chosen.transport]))
    if BUNDLE.exists():
        session.add("the bundle", "tidewire", 0, bundle_mb=BUNDLE.stat().st_size / 2**20)


def cold(session: Session, start: Start, settings: dict[str, str]) -> dict[str, float]:
    """The medians over some fresh processes, each on the server's core."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
    env |= {"REALTIME_AUTH": "none", "AWS_LAMBDA_FUNCTION_NAME": "bench", "PYTHONPATH": str(YARDSTICKS)} | settings
    argv = ["taskset", "-c", str(session.server_core), sys.executable, "-m", "bench.first_call", start.module]
    argv.append(str(YARDSTICKS / start.event))
    run_program(argv, env=env)  # fills the page cache, and compiles where something was not
    found = [json.loads(run_program(argv, env=env)) for _ in range(session.pick(STARTS, 3))]
    return {name: median(one[name] for one in found) for name in found[0]}
