"""The bundle that Lambda runs: complete, nothing superfluous, and reproducible."""

import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts import bundle as builder
from tests.support.processes import ROOT

pytestmark = [pytest.mark.xdist_group("bundle"), pytest.mark.timeout(180)]  # a build, on a shared machine

HANDLERS = re.findall(r"handler: (functions\.\w+)\.(\w+)", (ROOT / "serverless.yml").read_text())
PROCESS = "functions.stream"
MAX_MB = 25.0  # of the zip; Lambda accepts 50

# The interpreter sees the bundle alone: no site-packages, no PYTHONPATH, no working directory.
IMPORT = """
import importlib, json, sys
sys.path.insert(0, {bundle!r})
for module, name in {handlers}:
    assert callable(getattr(importlib.import_module(module), name)), (module, name)
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
print(json.dumps([file for file in files if file]))
"""


def _distributions(requirements: str) -> set[str]:
    lines = (ROOT / requirements).read_text().splitlines()
    return {re.split(r"[=;\s]", line)[0].lower().replace("-", "_") for line in lines if re.match(r"[A-Za-z]", line)}


def test_every_handler_imports_from_the_bundle_alone(here: Path, tmp_path: Path) -> None:
    assert len(HANDLERS) >= 5
    handlers = [*HANDLERS, (PROCESS, "main")]
    script = IMPORT.format(bundle=str(here), handlers=handlers)
    command = [sys.executable, "-I", "-S", "-B", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout)
    assert [file for file in files if "site-packages" in file or str(ROOT) in file] == []
    assert any(file.startswith(str(here / "tidewire")) for file in files)


def test_each_transport_has_its_driver_in_the_bundle(here: Path, tmp_path: Path) -> None:
    adapters = ("redis.streams", "upstash.rest_log", "postgres.log", "redis.pubsub", "eventbridge", "memory")
    names = [f"import tidewire.transports.{name}" for name in adapters]
    script = f"import sys; sys.path.insert(0, {str(here)!r}); {'; '.join(names)}"
    command = [sys.executable, "-I", "-S", "-B", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_is_small_and_without_tests_and_tools(for_lambda: tuple[zipfile.ZipFile, str]) -> None:
    bundle, printed = for_lambda
    names = {name.split("/")[0] for name in bundle.namelist()}
    found = {name.split("-")[0].lower() for name in names if name.endswith(".dist-info")}
    assert found <= _distributions("requirements.txt")
    assert found >= {"mangum", "starlette", "redis", "asyncpg", "msgspec", "cryptography"}
    assert names.isdisjoint({"tests", "bench", "bin", "boto3", "botocore", "pip"})
    assert [
        name for name in bundle.namelist() if name.startswith(("tidewire/tools/", "tidewire/http/site/", "shared/"))
    ] == []
    stated = re.search(r": ([0-9.]+) MB", printed)
    assert stated is not None
    assert float(stated[1]) < MAX_MB, printed


def test_it_has_binaries_of_lambda_s_platform(for_lambda: tuple[zipfile.ZipFile, str]) -> None:
    """The script warns if it could not compile the modules."""
    bundle, printed = for_lambda
    assert "Python 3.13 on arm64" in printed
    assert re.search(r"sha256 [0-9a-f]{64}", printed)
    names = bundle.namelist()
    native = [name for name in names if name.endswith(".so")]
    assert len(native) > 5
    assert [name for name in native if "x86_64" in name] == []
    assert any("cpython-313-aarch64-linux-gnu" in name for name in native)
    compiled = any(name.endswith(".pyc") for name in names)
    assert compiled is ("not compiled" not in printed)


def test_the_process_of_the_stream_function_can_be_started(for_lambda: tuple[zipfile.ZipFile, str]) -> None:
    bundle, _ = for_lambda
    assert bundle.getinfo("functions/run_stream.sh").external_attr >> 16 & 0o111 == 0o111
    assert {info.date_time for info in bundle.infolist()} == {builder.EPOCH}


def test_builds_are_reproducible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any folder, with all modules compiled: Lambda cannot write, so it would compile at every cold start."""
    small = tmp_path / "requirements.txt"  # three packages instead of all, to save time
    pin = r"^(?:mangum|msgspec|uvicorn)==.*(?: \\\n +--hash=\S+)+"
    small.write_text("\n".join(re.findall(pin, _pins(), re.MULTILINE)))
    wheels = builder.fetch("local", builder.LOCAL_PYTHON)
    monkeypatch.setattr(builder, "REQUIREMENTS", small)
    monkeypatch.setattr(builder, "fetch", lambda *_: wheels)
    sums = set()
    for place in ("one", "another/deeper"):
        builder.fill(tmp_path / place, "local", builder.LOCAL_PYTHON)
        assert builder.compile_modules(tmp_path / place, builder.LOCAL_PYTHON)
        sums.add(builder.pack(tmp_path / place, tmp_path / "bundle.zip"))
    assert len(sums) == 1
    for source in (tmp_path / "one").rglob("*.py"):
        compiled = Path(importlib.util.cache_from_source(str(source)))
        assert compiled.read_bytes()[4:8] == b"\x01\0\0\0", "PEP 552: by hash, and not checked against the source"


def test_a_bundle_with_traces_has_its_own_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str | Path, ...]] = []
    monkeypatch.setattr(builder, "WHEELS", tmp_path)
    monkeypatch.setattr(builder, "pip", lambda *arguments: asked.append(arguments))
    folders = [builder.fetch("arm64", "3.13", traced=traced) for traced in (False, True, False, True)]
    assert len(set(folders)) == 2
    assert [arguments[arguments.index("--requirement") + 1] for arguments in asked] == [
        ROOT / "requirements.txt",
        ROOT / "requirements-tracing.txt",
    ]
    assert "-r requirements.txt" in (ROOT / "requirements-tracing.txt").read_text().splitlines()


def _pins() -> str:
    return (ROOT / "requirements.txt").read_text()
