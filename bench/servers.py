"""The contestants; each is a context manager that yields a running Server."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from bench.process import BenchError, Child, answers, free_port, run
from tests.support.redis_cluster import RedisCluster

YARDSTICKS = Path(__file__).parent / "yardsticks"
MAX_CONNECTIONS = 12_000
KEPT_EVENTS = 100_000  # of both in-memory logs

NOTHING: Mapping[str, str] = MappingProxyType({})
MEMORY = MappingProxyType({"REALTIME_TRANSPORT": "memory", "REALTIME_MAX_EVENTS": str(KEPT_EVENTS)})

# All contestants publish the same data, {d}, in their own format. {u} is the event's number modulo the users.
TIDEWIRE_BODY = '{"type":"bench","data":{d}}'
TIDEWIRE_USER_BODY = '{"type":"bench","data":{d},"userIds":["u{u}"]}'


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, and its interface for the load client. {i} in a path is the connection's index."""

    name: str
    child: Child
    port: int
    publish_port: int
    events: str
    publish: str
    body: str = "{d}"
    ready: bool = False  # whether it sends `realtime.ready`; others are ready when the headers arrive


@contextmanager
def tidewire(tmp: Path, core: int | None = None, settings: Mapping[str, str] = MEMORY) -> Iterator[Server]:
    """Tidewire, all functions in one process. `settings` are environment variables; memory mode by default."""
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
    env |= {"REALTIME_AUTH": "none", "HOST": "127.0.0.1", "PORT": str(port), **settings}
    with Child([sys.executable, "-m", "functions.local"], log=tmp / "tidewire.log", core=core, env=env) as child:
        child.wait_until(lambda: answers(port, "/api/health/live"), "tidewire")
        yield Server("tidewire", child, port, port, "/api/events", "/api/publish", TIDEWIRE_BODY, ready=True)


@contextmanager
def nchan(tmp: Path, core: int | None = None) -> Iterator[Server]:
    """nchan, in C: one nginx worker with the module, and messages in its memory."""
    unpacked = Path("build/bench/nginx").absolute()  # from scripts/bench, if the system has none
    root = unpacked if unpacked.exists() else Path("/")
    nginx = root / "usr/sbin/nginx"
    module = root / "usr/lib/nginx/modules/ngx_nchan_module.so"
    if not (nginx.exists() and module.exists()):
        raise BenchError("nchan is not installed: apt-get install nginx libnginx-mod-nchan")
    port = free_port()
    text = (YARDSTICKS / "nchan.conf").read_text()
    values = {
        "MODULE": str(module),
        "USER": "user root;" if os.geteuid() == 0 else "",  # its temporary folder belongs to us, not to www-data
        "PORT": str(port),
        "CONNECTIONS": str(MAX_CONNECTIONS),
        "EVENTS": str(KEPT_EVENTS),
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    (tmp / "nchan.conf").write_text(text)
    argv: Sequence[str | Path] = [nginx, "-p", tmp, "-c", tmp / "nchan.conf", "-e", "stderr"]
    with Child(argv, log=tmp / "nchan.log", core=core) as child:
        child.wait_until(lambda: answers(port), "nchan")
        yield Server("nchan", child, port, port, "/events?channel=all", "/publish?channel=all")


@contextmanager
def sse_starlette(tmp: Path, core: int | None = None) -> Iterator[Server]:
    """The usual Python solution: Starlette and sse-starlette, with a bounded queue per subscriber."""
    with _uvicorn("sse_app:app", tmp, core) as (child, port):
        yield Server("sse-starlette", child, port, port, "/events", "/publish")


@contextmanager
def hello(tmp: Path, core: int | None = None) -> Iterator[Server]:
    """A minimal POST: the cost of uvicorn and Starlette alone."""
    with _uvicorn("hello_app:app", tmp, core) as (child, port):
        yield Server("hello", child, port, port, "/", "/hello")


@contextmanager
def redis(tmp: Path, core: int | None = None) -> Iterator[Server]:
    """A private Redis without persistence; `port` is RESP."""
    port = free_port()
    argv = [_redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp)]
    argv += ["--save", "", "--appendonly", "no"]
    with Child(argv, log=tmp / "redis.log", core=core) as child:
        child.wait_until(lambda: answers(port), "redis")
        yield Server("redis", child, port, port, "", "")


@contextmanager
def redis_cluster(tmp: Path) -> Iterator[RedisCluster]:
    """Three primaries without replicas and without persistence, each in a folder of its own."""
    cluster = RedisCluster(tmp, replicas=0)
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@contextmanager
def upstash(tmp: Path, redis_port: int) -> Iterator[Server]:
    """A stand-in for Upstash's REST API in front of a Redis."""
    with _uvicorn("upstash_app:app", tmp, None, REDIS_URL=f"redis://127.0.0.1:{redis_port}/0") as (child, port):
        yield Server("upstash", child, port, port, "", "")


@contextmanager
def tidewire_on_redis(
    tmp: Path, redis_port: int, core: int | None = None, settings: Mapping[str, str] = NOTHING
) -> Iterator[Server]:
    """Tidewire over Redis Streams; start it twice to separate publishing from streaming."""
    url = f"redis://127.0.0.1:{redis_port}/0"
    with tidewire(tmp, core, {"REALTIME_TRANSPORT": "redis", "REDIS_URL": url, **settings}) as server:
        yield server


def _redis_server() -> str:
    beside_python = str(Path(sys.executable).parent)  # scripts/setup may have installed one there
    path = f"{os.environ.get('PATH', '')}{os.pathsep}{beside_python}"
    chosen = os.environ.get("TIDEWIRE_REDIS_SERVER")
    found = chosen or shutil.which("redis-server", path=path) or shutil.which("valkey-server", path=path)
    if found is None:
        raise BenchError("no redis-server found: apt-get install redis-server, or set TIDEWIRE_REDIS_SERVER=/path")
    return found


@contextmanager
def _uvicorn(app: str, tmp: Path, core: int | None, **env: str) -> Iterator[tuple[Child, int]]:
    port = free_port()
    argv = [sys.executable, "-m", "uvicorn", app, "--app-dir", str(YARDSTICKS), "--port", str(port)]
    argv += ["--loop", "uvloop", "--http", "httptools", "--backlog", "4096"]
    argv += ["--log-level", "warning", "--no-access-log"]
    with Child(argv, log=tmp / f"{app.partition(':')[0]}.log", core=core, env=os.environ | env) as child:
        child.wait_until(lambda: answers(port), app)
        yield child, port


FANOUT = {"tidewire": tidewire, "nchan": nchan, "sse-starlette": sse_starlette}


def versions() -> dict[str, str]:
    """Return the installed versions of all contestants."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for package in ("uvicorn", "uvloop", "httptools", "starlette", "sse-starlette", "mangum", "redis", "hiredis"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    unpacked = Path("build/bench/nginx/versions")
    installed = ["dpkg-query", "-W", "-f=${Package} ${Version}\n", "nginx", "libnginx-mod-nchan"]
    try:
        text = unpacked.read_text() if unpacked.exists() else run(installed).decode()
        for line in text.splitlines():
            name, _, number = line.partition(" ")
            found[name] = number
        found["redis-server"] = run([_redis_server(), "--version"]).decode().split("v=")[1].split()[0]
    except BenchError as error:
        found["unknown"] = str(error)
    return found
