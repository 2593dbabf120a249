"""A pytest of its own over small test modules, with one of our conftests as a plugin."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.processes import ROOT


def run_pytest(folder: Path, modules: Mapping[str, str], *, plugin: str, ci: str = "") -> str:
    """Write the modules (file name → body) to the folder and run them; return the exit code and the output."""
    for name, body in modules.items():
        (folder / name).write_text(f"import pytest\n{body}\n")
    (folder / "pytest.ini").write_text("[pytest]\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", plugin, "--continue-on-collection-errors"],
        cwd=folder,
        # None of the installed plugins has a part in this, and each takes its time to import.
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return f"exit code {result.returncode}\n{result.stdout}"
