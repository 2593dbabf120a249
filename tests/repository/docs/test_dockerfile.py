"""examples/Dockerfile without a container engine: its files suffice, its command serves, its health check works."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx

from tests.support.processes import ROOT, Instance, inherited

TEXT = (ROOT / "examples" / "Dockerfile").read_text()


def test_the_base_image_is_pinned_by_digest() -> None:
    [base] = re.findall(r"^FROM (.+)$", TEXT, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim@sha256:[0-9a-f]{64}", base)


def test_the_image_serves_and_its_health_check_works(tmp_path: Path) -> None:
    """The files that it copies are enough for its command, and the health check fails until the server answers."""
    for line in re.findall(r"^COPY (.+)$", TEXT, re.MULTILINE):
        *patterns, target = line.split()
        found = [source for pattern in patterns for source in ROOT.glob(pattern)]
        assert found, f"COPY {line}: an engine fails if nothing matches"
        for source in found:
            if source.is_dir():
                shutil.copytree(source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, tmp_path / target)
    assert "realtime.tom[l]" in TEXT, "the image contains realtime.toml if it exists"
    [variables] = re.findall(r"^ENV (.+)$", TEXT, re.MULTILINE)
    assert "HOST=0.0.0.0" in variables.split(), "otherwise the port is not reachable from outside the container"
    commands = re.findall(r"^(?:HEALTHCHECK .*?)?CMD (\[.*\])$", TEXT, re.MULTILINE)
    [check, start] = [json.loads(words) for words in commands]
    within = ["sh", "-c", 'cd "$0" && exec "$@"', str(tmp_path)]
    instance = Instance(tmp_path, {"REALTIME_TRANSPORT": "memory"}, command=[*within, sys.executable, *start[1:]])
    is_well = [sys.executable, *check[1:]]
    environment = {**inherited(), "PORT": str(instance.port)}
    assert subprocess.run(is_well, env=environment, capture_output=True, check=False).returncode != 0
    instance.start()
    try:
        subprocess.run(is_well, env=environment, check=True)
        for page in ("/", "/realtime.js"):
            assert httpx.get(instance.url + page).status_code == 200
    finally:
        instance.stop()
    [install] = re.findall(r"^RUN pip install (.+)$", TEXT, re.MULTILINE)
    assert "--require-hashes -r requirements.txt" in install
    used = re.findall(r"^RUN python -m (\w+) -q (.+?) &&", TEXT, re.MULTILINE)
    assert used == [("compileall", "functions shared")]
