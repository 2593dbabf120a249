"""The package as users install it: complete, nothing else in it, usable beside a `shared` and `functions` of theirs."""

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from tidewire import __version__

from tests.support.processes import ROOT, Instance, inherited

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("package"), pytest.mark.timeout(180)]

INFO = f"tidewire-{__version__}.dist-info/"
PROJECT_FILES = {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO", "setup.cfg"}
TYPED = 'import tidewire; from tidewire.model.event import Event\nreveal_type(tidewire.__version__)\nEvent("t", 7)\n'


def run(*command: str | Path, cwd: Path = ROOT, env: Mapping[str, str] = {}) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**inherited(), **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What scripts/dist builds."""
    folder = tmp_path_factory.mktemp("dist")
    run("scripts/dist", folder)
    return folder


@pytest.fixture(scope="module")
def python(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheel and the packages of .venv, but not this checkout.

    A path in a .pth file is not searched for further .pth files, and the editable install is one.
    """
    folder = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    [wheel] = dist.glob("*.whl")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", "--quiet", wheel)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A user's project, which has packages of its own with the names of this repository's folders."""
    for name in ("shared", "functions", "scripts", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    return tmp_path


def expected() -> set[str]:
    """The files of the package in the repository; `http/site` leads to `site/`."""
    listed = run(
        "git", "ls-files", "--cached", "--others", "--exclude-standard", "shared/tidewire", "site"
    ).splitlines()
    existing = [name for name in listed if (ROOT / name).is_file()]
    return {f"tidewire/http/{name}" if name.startswith("site/") else name.removeprefix("shared/") for name in existing}


def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    [wheel] = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    own = {name for name in names if not name.startswith(INFO)}
    assert own == expected()
    assert {"tidewire/py.typed", "tidewire/http/openapi.json", "tidewire/http/site/index.html"} <= own
    assert {Path(name).suffix for name in own} >= {".lua", ".sql", ".toml", ".js"}
    metadata = zipfile.ZipFile(wheel).read(f"{INFO}METADATA").decode()
    assert f"Version: {__version__}\n" in metadata
    assert "License-Expression: MIT\n" in metadata


def test_the_sdist_holds_what_the_wheel_is_built_from(dist: Path) -> None:
    [sdist] = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
        assert not any(member.issym() or member.islnk() for member in archive), "a link may lead nowhere elsewhere"
    own = {name for name in files if not name.startswith("shared/tidewire.egg-info/")}
    assert own - PROJECT_FILES == {f"shared/{name}" for name in expected()}


def test_an_installed_package_does_not_need_the_checkout(python: Path, elsewhere: Path) -> None:
    code = (
        "import json, tidewire, shared, functions\n"
        "from importlib import metadata\n"
        "print(json.dumps([tidewire.__version__, metadata.version('tidewire'), tidewire.__file__,"
        " shared.MINE and functions.MINE]))"
    )
    version, distributed, file, mine = json.loads(run(python, "-c", code, cwd=elsewhere))
    assert version == distributed == __version__
    assert file.startswith(str(python.parent.parent))
    assert mine is True


def test_the_installed_command_line_prints_its_version(python: Path, elsewhere: Path) -> None:
    tidewire = python.with_name("tidewire")
    assert run(tidewire, "--version", cwd=elsewhere).split() == ["tidewire", __version__]
    assert run(python, "-m", "tidewire", "--version", cwd=elsewhere).split() == ["tidewire", __version__]


def test_an_installed_server_streams_and_serves_the_console(python: Path, elsewhere: Path) -> None:
    command = ["sh", "-c", 'cd "$0" && exec "$@"', str(elsewhere), str(python), "-m", "tidewire.http.local"]
    instance = Instance(elsewhere, {"REALTIME_TRANSPORT": "memory"}, command=command)
    instance.start()
    try:
        with httpx.Client(base_url=instance.url, timeout=10) as client:
            with client.stream("GET", "/api/events") as stream:
                lines = stream.iter_lines()
                assert any(line == "event: realtime.ready" for line in lines)
                answer = client.post("/api/publish", json={"type": "t", "data": {"id": 7}})
                assert answer.status_code in (200, 201, 202)
                assert any(line.replace(" ", "") == 'data:{"id":7}' for line in lines)
            for page in ("/", "/realtime.js", "/react.js"):
                assert client.get(page).status_code == 200
            assert client.get("/api/openapi.json").json()["info"]["version"] == __version__
    finally:
        instance.stop()


def test_an_installed_package_migrates_postgres(python: Path, elsewhere: Path, postgres_database: str) -> None:
    settings = {"DATABASE_URL": postgres_database}
    applied = json.loads(run(python, "-m", "tidewire", "migrate", "--json", cwd=elsewhere, env=settings))["applied"]
    files = sorted((ROOT / "shared/tidewire/transports/postgres/sql").glob("*.sql"))
    assert len(applied) == len(files)
    assert files


def test_an_installed_package_has_types(python: Path, elsewhere: Path) -> None:
    """A type checker reads the annotations of a package only if it has `py.typed` (PEP 561)."""
    (elsewhere / "own.py").write_text(TYPED)
    config = elsewhere / "mypy.ini"
    config.write_text("[mypy]\n")
    command = [sys.executable, "-m", "mypy", "--config-file", config, "--python-executable", python, "own.py"]
    done = subprocess.run(
        list(map(str, command)), cwd=elsewhere, env=inherited(), capture_output=True, text=True, check=False
    )
    assert 'Revealed type is "builtins.str"' in done.stdout or 'Revealed type is "str"' in done.stdout, done.stdout
    assert "py.typed" not in done.stdout
    shutil.rmtree(elsewhere / ".mypy_cache", ignore_errors=True)
