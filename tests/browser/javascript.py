"""The tools of .venv/js (scripts/js): bundles of applications, with the React that they ask for."""

import functools
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.processes import ROOT, inherited

HOME = ROOT / ".venv" / "js"
MODULES = HOME / "node_modules"
SOURCES = ROOT / "tests" / "browser" / "js"
SITE = ROOT / "site"
SECONDS = 120  # only a failing test waits so long
REACTS = {"18": "-18", "19": ""}  # what a version's packages are called in package.json
EACH_REACT = [pytest.param("18", marks=pytest.mark.full), "19"]


def run(program: str, *arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run one of the tools to its end."""
    node = ROOT / ".venv" / "node" / "bin"  # where scripts/osls found no Node
    environment = {**inherited(), "PATH": f"{node}{os.pathsep}{os.environ['PATH']}", "NODE_PATH": str(MODULES)}
    command = [str(MODULES / ".bin" / program), *map(str, arguments)]
    return subprocess.run(
        command, check=False, cwd=cwd, env=environment, capture_output=True, text=True, timeout=SECONDS
    )


def modules_in(folder: Path) -> Path:
    """The folder, in which an import finds the installed packages: ES modules do not look at NODE_PATH."""
    (folder / "node_modules").symlink_to(MODULES)
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


@functools.cache
def bundle(source: Path, react: str) -> str:
    """The script of an application, all that it imports included, for React of this major version."""
    suffix = REACTS[react]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "app.js")
        done = run(
            "esbuild",
            source,
            "--bundle",
            "--jsx=automatic",
            '--define:process.env.NODE_ENV="development"',  # StrictMode mounts twice in this one alone
            f"--alias:react={MODULES / f'react{suffix}'}",
            f"--alias:react-dom={MODULES / f'react-dom{suffix}'}",
            f"--alias:tidewire/react={SITE / 'react.js'}",
            f"--outfile={out}",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return out.read_text()
