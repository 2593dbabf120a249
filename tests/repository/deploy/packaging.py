"""Runs `osls package` on a copy of its input files, as scripts/package does, with an empty bundle."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT, inherited

TEMPLATE = Path(".serverless", "cloudformation-template-update-stack.json")


def lay_out(folder: Path) -> Path:
    """Copy the input files of osls into the folder."""
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    shutil.copy(ROOT / "serverless.yml", folder)
    (folder / "functions").mkdir()
    (folder / "build").mkdir()
    (folder / "build" / "bundle.zip").write_bytes(b"PK\x05\x06" + bytes(18))  # osls only uploads it
    return folder


def run_osls(project: Path, *arguments: str) -> dict[str, Any]:
    """The template that `osls package` makes there with these arguments."""
    (osls,) = (ROOT / ".venv").glob("osls-*/node_modules/.bin/osls")
    path = {"PATH": f"{ROOT / '.venv' / 'node' / 'bin'}:{inherited()['PATH']}"}
    environment = {**inherited(), **path, "SLS_TELEMETRY_DISABLED": "1", "SLS_NOTIFICATIONS_MODE": "off"}
    command = [str(osls), "package", *arguments]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    template: dict[str, Any] = json.loads((project / TEMPLATE).read_text())
    return template
