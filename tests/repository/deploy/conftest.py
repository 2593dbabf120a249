"""The bundle and the templates of scripts/package, made once for all tests here."""

import fcntl
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts import bundle as builder
from scripts.netlify_build import stage
from tests.repository.deploy.packaging import lay_out, run_osls
from tests.support.processes import ROOT, inherited

OTLP = "https://collector.example.com"

Package = Callable[..., dict[str, Any]]

STATE = Path(".serverless", "serverless-state.json")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one worker fills for all: a build takes seconds of CPU time."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            folder.mkdir()
            make(folder)
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="session")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contents of a bundle for this machine."""

    def fill(folder: Path) -> None:
        builder.fill(folder / "bundle", "local", builder.LOCAL_PYTHON)

    return once(tmp_path_factory, "here", fill) / "bundle"


@pytest.fixture(scope="session")
def for_lambda(tmp_path_factory: pytest.TempPathFactory) -> tuple[zipfile.ZipFile, str]:
    """The bundle for Lambda, and the output of scripts/bundle.py."""

    def build(folder: Path) -> None:
        command = [sys.executable, "scripts/bundle.py", "--out", str(folder / "lambda.zip")]
        built = subprocess.run(command, cwd=ROOT, env=inherited(), capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr
        (folder / "output").write_text(built.stdout + built.stderr)

    folder = once(tmp_path_factory, "for-lambda", build)
    return zipfile.ZipFile(folder / "lambda.zip"), (folder / "output").read_text()


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of osls's input files, so that no test writes into another one's .serverless."""
    return lay_out(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def package(project: Path) -> Package:
    """`package("--stage", "prod")` returns the template for these arguments."""

    def make(*arguments: str) -> dict[str, Any]:
        template = run_osls(project, *arguments)
        state = json.loads((project / STATE).read_text())["service"]
        assert "stackName" not in state["provider"], "the stack is named after service and stage"
        return template

    return make


@pytest.fixture(scope="session")
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The template of a stage with streams on a function URL."""

    def make(folder: Path) -> None:
        package: Package = request.getfixturevalue("package")
        (folder / "template.json").write_text(json.dumps(package("--stage", "prod")))

    made: dict[str, Any] = json.loads((once(tmp_path_factory, "template", make) / "template.json").read_text())
    return made


@pytest.fixture(scope="session")
def previews(package: Package) -> dict[str, dict[str, Any]]:
    """The templates of two preview stages with all optional parameters, e.g. streams on API Gateway."""
    stages = [stage({"CONTEXT": "deploy-preview", "REVIEW_ID": number}) for number in ("7", "8")]
    more = ("--param", "streamBy=rest-api", "--param", "alarmTopic=arn:aws:sns:x:1:topic", "--param", f"otlp={OTLP}")
    reserved = ("--param", "streams=5", "--param", "publishers=2")
    return {name: package("--stage", name, *more, *reserved) for name in stages}
