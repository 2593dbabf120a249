"""The bundle that Lambda runs: complete, nothing in it that does not belong there, and always the same bytes."""

import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts import bundle as builder
from tests.processes import ROOT

pytestmark = [pytest.mark.xdist_group("bundle"), pytest.mark.timeout(180)]  # a build, on a machine that others use too

HANDLERS = re.findall(r"handler: (functions\.\w+)\.(\w+)", (ROOT / "serverless.yml").read_text())
PROCESS = "functions.stream"
MOST_MB = 25.0  # of the zip; Lambda takes 50

# What of this interpreter is its own: no site-packages, no PYTHONPATH, no folder that it was started in.
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
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    ours = [file for file in json.loads(told.stdout) if "site-packages" in file or str(ROOT) in file]
    assert ours == []
    assert any(file.startswith(str(here / "tidewire")) for file in json.loads(told.stdout))


def test_each_transport_has_its_driver_in_the_bundle(here: Path, tmp_path: Path) -> None:
    adapters = ("redis.streams", "upstash.rest_log", "postgres.log", "redis.pubsub", "eventbridge", "memory")
    names = [f"import tidewire.transports.{name}" for name in adapters]
    script = f"import sys; sys.path.insert(0, {str(here)!r}); {'; '.join(names)}"
    command = [sys.executable, "-I", "-S", "-B", "-c", script]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr


def test_nothing_of_the_tests_and_tools_is_in_it_and_it_is_small_enough(
    for_lambda: tuple[zipfile.ZipFile, str],
) -> None:
    bundle, told = for_lambda
    names = {name.split("/")[0] for name in bundle.namelist()}
    found = {name.split("-")[0].lower() for name in names if name.endswith(".dist-info")}
    assert found <= _distributions("requirements.txt")
    assert found >= {"mangum", "starlette", "redis", "asyncpg", "msgspec", "cryptography"}
    assert names.isdisjoint({"tests", "bench", "bin", "boto3", "botocore", "pip"})
    assert [
        name for name in bundle.namelist() if name.startswith(("tidewire/tools/", "tidewire/http/site/", "shared/"))
    ] == []
    stated = re.search(r": ([0-9.]+) MB", told)
    assert stated is not None
    assert float(stated[1]) < MOST_MB, told


def test_it_holds_the_code_of_lambda_s_platform_and_says_so_when_it_is_not_compiled(
    for_lambda: tuple[zipfile.ZipFile, str],
) -> None:
    bundle, told = for_lambda
    assert "Python 3.13 on arm64" in told
    assert re.search(r"sha256 [0-9a-f]{64}", told)
    names = bundle.namelist()
    native = [name for name in names if name.endswith(".so")]
    assert len(native) > 5
    assert [name for name in native if "x86_64" in name] == []
    assert any("cpython-313-aarch64-linux-gnu" in name for name in native)
    compiled = any(name.endswith(".pyc") for name in names)
    assert compiled is ("the modules are not compiled" not in told)


def test_the_process_of_the_stream_function_can_be_started(for_lambda: tuple[zipfile.ZipFile, str]) -> None:
    bundle, _ = for_lambda
    assert bundle.getinfo("functions/run_stream.sh").external_attr >> 16 & 0o111 == 0o111
    assert {info.date_time for info in bundle.infolist()} == {builder.EPOCH}


def test_the_same_sources_are_the_same_bytes_wherever_they_are_built_and_lambda_never_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "requirements.txt"  # all else goes the same way, and takes its time
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


def test_a_bundle_that_traces_is_made_of_wheels_of_its_own_and_another_one_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str | Path, ...]] = []
    monkeypatch.setattr(builder, "WHEELS", tmp_path)
    monkeypatch.setattr(builder, "_pip", lambda *arguments: asked.append(arguments))
    folders = [builder.fetch("arm64", "3.13", traced=traced) for traced in (False, True, False, True)]
    assert len(set(folders)) == 2
    assert [arguments[arguments.index("--requirement") + 1] for arguments in asked] == [
        ROOT / "requirements.txt",
        ROOT / "requirements-tracing.txt",
    ]
    assert "-r requirements.txt" in (ROOT / "requirements-tracing.txt").read_text().splitlines()


def _pins() -> str:
    return (ROOT / "requirements.txt").read_text()
