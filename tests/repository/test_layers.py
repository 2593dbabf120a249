"""Imports point down: a lower room works, and can be read, without the higher ones."""

import ast
import functools
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.processes import ROOT, inherited

FLOORS = {
    "errors": 0,
    "model": 1,
    "primitives": 1,
    "protocol": 2,
    "client": 2,
    "settings": 3,
    "security": 4,
    "ingest": 4,
    "transports": 4,
    "delivery": 5,
    "monitoring": 6,
    "wiring": 7,
    "http": 8,
    "tools": 9,
    "__main__": 10,
}
"""Each package of `tidewire`, and each module beside them, with its floor."""

CHOOSERS = {"tidewire.wiring", "tidewire.tools.cli.migrate"}  # the second brings one adapter's database up to date
BELOW_ADAPTERS = {"appending", "base", "log_base", "log_follower", "single_flight"}
SERVERS = {"starlette", "mangum", "uvicorn"}  # for `tidewire.http` alone
STORES = {"redis", "hiredis", "httpx", "upstash_redis", "asyncpg", "boto3", "botocore", "opentelemetry", "requests"}


def modules(folder: Path) -> dict[str, Path]:
    """The modules below a folder, by their names; packages by their `__init__`."""
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): path
        for path in folder.rglob("*.py")
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


CORE = modules(ROOT / "shared")
EVERYTHING = CORE | {f"functions.{name}": path for name, path in modules(ROOT / "functions").items()}
EDGES = {name: imports(path) & CORE.keys() - {name, "tidewire"} for name, path in CORE.items()}
"""Without edges to the package itself: Python imports it first, and it imports its public names late."""
ADAPTERS = {
    name
    for name in CORE
    if name.startswith("tidewire.transports.") and name.removeprefix("tidewire.transports.") not in BELOW_ADAPTERS
}


def room(module: str) -> str:
    """`model` for `tidewire.model.cursor`; "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def test_every_module_has_a_floor() -> None:
    assert {room(name) for name in CORE} - {""} == FLOORS.keys()


def test_imports_point_down() -> None:
    wrong = [
        f"{name} imports {below}"
        for name, found in EDGES.items()
        for below in found
        if room(name) and room(below) and room(name) != room(below) and FLOORS[room(below)] >= FLOORS[room(name)]
    ]
    assert wrong == []


def test_there_is_no_circle() -> None:
    TopologicalSorter(EDGES).prepare()


def test_rooms_are_described_in_one_line() -> None:
    """And hold nothing else: importing a module must not import its neighbours."""
    for name, path in CORE.items():
        if path.name != "__init__.py" or name in ("tidewire", "tidewire.client", "tidewire.tools.doctor"):
            continue
        (described,) = ast.parse(path.read_text()).body
        text = ast.get_docstring(ast.Module([described], []))
        assert text is not None, name
        assert "\n" not in text, name


def test_the_core_imports_nothing_of_a_deployment() -> None:
    wrong = [
        f"{name} imports {found}"
        for name, path in CORE.items()
        for found in imports(path)
        if found.split(".")[0] in {"functions", "tests", "bench"}
        or (found.split(".")[0] in SERVERS and room(name) != "http")
    ]
    assert wrong == []


def test_only_the_wiring_imports_adapters() -> None:
    wrong = [
        f"{name} imports {adapter}"
        for name, path in EVERYTHING.items()
        if name not in ADAPTERS | CHOOSERS
        for adapter in imports(path) & ADAPTERS
    ]
    assert wrong == []


def test_no_function_imports_a_tool() -> None:
    """The bundle leaves them out."""
    wrong = [
        f"{name} imports {found}"
        for name, path in EVERYTHING.items()
        if room(name) not in ("tools", "__main__")
        for found in imports(path)
        if found.startswith("tidewire.tools")
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "start",
    [
        "import tidewire.delivery.hub, tidewire.delivery.subscriber, tidewire.protocol.sse",
        "import tidewire.wiring as w, tidewire.settings.config as s; w.make_hub(s.Settings.from_env({}))",
    ],
    ids=["core", "memory"],
)
def test_no_store_is_imported_before_it_is_used(start: str) -> None:
    printed = subprocess.run(
        [sys.executable, "-c", f"{start}\nimport sys; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    loaded = {name.split(".")[0] for name in printed.split()}
    assert "tidewire" in loaded
    assert loaded.isdisjoint(STORES)


@pytest.mark.parametrize(
    ("function", "transport"), [("publish", "memory"), ("publish", "redis"), ("ops", "redis"), ("tokens", "memory")]
)
def test_boto3_is_imported_only_for_secrets(function: str, transport: str) -> None:
    invoke = (
        f"from functions import {function} as f\n"
        "request = {'method': 'GET', 'path': '/api/health/live', 'sourceIp': '192.0.2.1'}\n"
        "event = {'version': '2.0', 'rawPath': '/api/health/live', 'rawQueryString': '', 'headers': {},\n"
        "         'requestContext': {'http': request}, 'isBase64Encoded': False}\n"
        "assert f.handler(event, None)['statusCode'] in (200, 404)\n"
        "import sys; print(*sys.modules)"
    )
    environment = {"REALTIME_TRANSPORT": transport, "REDIS_URL": "redis://127.0.0.1:9", "REALTIME_AUTH": "none"}
    printed = subprocess.run(
        [sys.executable, "-W", "error:There is no current event loop", "-c", invoke],
        cwd=ROOT,
        env={**inherited(), **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    loaded = {name.split(".")[0] for name in printed.split()}
    assert "mangum" in loaded
    assert loaded.isdisjoint({"boto3", "botocore"})
