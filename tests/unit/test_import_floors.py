"""Imports point down: what is below works, and is understood, without what is above."""

import ast
import functools
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.processes import ROOT, inherited

SCHEMES = {
    f"webhooks.{name}"
    for name in ("github", "hmac_header", "netlify", "qstash", "slack", "standard_webhooks", "stripe")
}

FLOORS: list[set[str]] = [
    {"errors", "backoff", "counters", "seen", "buckets", "mapping.lines", "media_type", "repeated", "unread"},
    {"event", "cursor", "variables", "database", "mapping.document", "mapping.form", "webhooks.json_web_token"},
    {"endpoints", "rights", "envelope"},
    {"config", "mapping.payload"},
    {"record", "filter", "mapping.expression", "webhooks.scheme"},
    {"stored", "mapping.rules"} | SCHEMES,
    {"partitions", "sse", "webhooks.sources"},
    {"awaited", "ring", "once", "schemes", "transports.base", "webhooks.trial"},
    {"tracer", "known_schemes"},
    {"transports.reading", "transports.appending", "fanout"},
    {"catching_up"},
    {"transports.memory", "transports.redis_layout", "subscriber"},
    {"transports.redis_streams", "hub"},
    {"wiring"},
]
CHOOSERS = {"wiring", "migrations"}  # the second brings one adapter's database up to date
BELOW_ADAPTERS = {"transports.appending", "transports.base", "transports.reading"}
BACKENDS = {
    "redis",
    "hiredis",
    "httpx",
    "upstash_redis",
    "psycopg",
    "asyncpg",
    "boto3",
    "botocore",
    "opentelemetry",
    "requests",
}


def modules(package: str) -> dict[str, Path]:
    """The modules of one of our packages by their name in it."""
    root = ROOT / package
    return {
        ".".join(path.relative_to(root).with_suffix("").parts): path
        for path in root.rglob("*.py")
        if path.name != "__init__.py"
    }


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """What a file imports, anywhere in it: a late import, or one for types only, is a dependency too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write out what is imported"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


CORE = modules("shared")
EDGES = {name: {found.removeprefix("shared.") for found in imports(path)} & CORE.keys() for name, path in CORE.items()}
ADAPTERS = {name for name in CORE if name.startswith("transports.")} - BELOW_ADAPTERS


def test_no_import_of_the_core_points_up() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    assert floor.keys() <= CORE.keys()
    wrong = [
        f"{name} imports {below}"
        for name, found in EDGES.items()
        for below in found
        if name in floor and below in floor and floor[below] >= floor[name] and below != name
    ]
    assert wrong == []


def test_the_ground_floors_import_nothing_that_has_no_floor() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    unplaced = {
        f"{name} imports {below}"
        for name in floor
        if name != "wiring"
        for below in EDGES[name] - floor.keys() - ADAPTERS
    }
    # What is above the core (requests, tokens, pages) may use it; the core must not know of it.
    assert {edge for edge in unplaced if not edge.startswith("transports.")} == set()


def test_what_makes_events_of_webhooks_has_a_floor_below_the_hub() -> None:
    below = set().union(*FLOORS[: next(number for number, names in enumerate(FLOORS) if "hub" in names)])
    assert {name for name in CORE if name.startswith(("mapping.", "webhooks."))} <= below


def test_there_is_no_circle() -> None:
    TopologicalSorter({name: found - {name} for name, found in EDGES.items()}).prepare()


def test_the_core_does_not_know_how_it_is_deployed() -> None:
    wrong = [
        f"{name} imports {found}"
        for name, path in CORE.items()
        for found in imports(path)
        if found.split(".")[0] in {"functions", "tests", "bench", "starlette", "mangum", "uvicorn"}
    ]
    assert wrong == []


def test_adapters_are_imported_by_one_another_and_where_one_is_chosen_only() -> None:
    everything = {
        **{f"shared.{name}": path for name, path in CORE.items()},
        **{f"functions.{name}": path for name, path in modules("functions").items()},
    }
    wrong = [
        f"{name} imports {adapter}"
        for name, path in everything.items()
        if name.removeprefix("shared.") not in ADAPTERS | CHOOSERS
        for adapter in ADAPTERS
        if f"shared.{adapter}" in imports(path)
    ]
    assert wrong == []


def test_prices_are_imported_by_the_command_that_shows_them_only() -> None:
    everything = {**{f"shared.{name}": path for name, path in CORE.items()}, **modules("functions")}
    wrong = [
        f"{name} imports {found}"
        for name, path in everything.items()
        for found in imports(path)
        if found.startswith("tidewire.tools.cost.")
        and not name.startswith(("tidewire.tools.cost.", "tidewire.tools.cli.cost"))
    ]
    assert wrong == [], "no function needs them, and the bundle leaves them out"


def test_what_is_below_the_adapters_does_not_know_them() -> None:
    for name in BELOW_ADAPTERS | {"hub", "fanout", "subscriber", "catching_up", "ring"}:
        assert EDGES[name].isdisjoint(ADAPTERS)


@pytest.mark.parametrize(
    "start",
    [
        "import tidewire.delivery.hub, tidewire.delivery.subscriber, tidewire.delivery.fanout, tidewire.protocol.sse",
        "from tidewire.wiring import make_hub\nfrom tidewire.settings.config import Settings\nmake_hub(Settings.from_env({}))",
    ],
    ids=["core", "memory-mode"],
)
def test_no_backend_is_imported_before_it_is_asked_for(start: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", f"{start}\nimport sys; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    loaded = {name.split(".")[0] for name in told.split()}
    assert "shared" in loaded
    assert loaded.isdisjoint(BACKENDS)


@pytest.mark.parametrize(
    ("function", "transport"), [("publish", "memory"), ("publish", "redis"), ("ops", "redis"), ("tokens", "memory")]
)
def test_a_function_without_names_of_secrets_does_not_import_boto3(function: str, transport: str) -> None:
    invoke = (
        f"from functions import {function} as f\n"
        "request = {'method': 'GET', 'path': '/api/health/live', 'sourceIp': '192.0.2.1'}\n"
        "event = {'version': '2.0', 'rawPath': '/api/health/live', 'rawQueryString': '', 'headers': {},\n"
        "         'requestContext': {'http': request}, 'isBase64Encoded': False}\n"
        "assert f.handler(event, None)['statusCode'] in (200, 404)\n"
        "import sys; print(*sys.modules)"
    )
    environment = {"REALTIME_TRANSPORT": transport, "REDIS_URL": "redis://127.0.0.1:9", "REALTIME_AUTH": "none"}
    told = subprocess.run(
        [sys.executable, "-W", "error:There is no current event loop", "-c", invoke],
        cwd=ROOT,
        env={**inherited(), **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    loaded = {name.split(".")[0] for name in told.split()}
    assert "mangum" in loaded
    assert loaded.isdisjoint({"boto3", "botocore"})
