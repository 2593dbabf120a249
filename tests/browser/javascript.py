"""The JavaScript tools in .venv/js (scripts/js), and bundles of applications with a React version."""

import functools
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.processes import ROOT, inherited

HOME = ROOT / ".venv" / "js"
MODULES = HOME / "node_modules"
SOURCES = ROOT / "tests" / "browser" / "js"
SITE = ROOT / "site"
SECONDS = 120  # only a failing test waits so long
REACTS = {"18": "-18", "19": ""}  # suffix of the packages in package.json
EACH_REACT = [pytest.param("18", marks=pytest.mark.full), "19"]


def run(program: str, *arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run one of the tools."""
    node = ROOT / ".venv" / "node" / "bin"  # installed by scripts/osls if there was no Node
    environment = {**inherited(), "PATH": f"{node}{os.pathsep}{os.environ['PATH']}", "NODE_PATH": str(MODULES)}
    command = [str(MODULES / ".bin" / program), *map(str, arguments)]
    return subprocess.run(
        command, check=False, cwd=cwd, env=environment, capture_output=True, text=True, timeout=SECONDS
    )


def modules_in(folder: Path) -> Path:
    """The folder, prepared so that imports find the packages: ES modules ignore NODE_PATH."""
    (folder / "node_modules").symlink_to(MODULES)
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


@functools.cache
def bundle(source: Path, react: str) -> str:
    """The bundled script of an application, for this major version of React."""
    suffix = REACTS[react]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "app.js")
        done = run(
            "esbuild",
            source,
            "--bundle",
            "--jsx=automatic",
            '--define:process.env.NODE_ENV="development"',  # StrictMode mounts twice only in development
            f"--alias:react={MODULES / f'react{suffix}'}",
            f"--alias:react-dom={MODULES / f'react-dom{suffix}'}",
            f"--alias:tidewire/react={SITE / 'react.js'}",
            f"--outfile={out}",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return out.read_text()
