"""With CI set, a green run means that every test ran."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.processes import ROOT

MODULES = {
    "test_mark.py": "@pytest.mark.skip('x')\ndef test_it(): pass",
    "test_condition.py": "@pytest.mark.skipif(True, reason='x')\ndef test_it(): pass",
    "test_call.py": "def test_it(): pytest.skip('no server')",
    "test_fixture.py": "@pytest.fixture\ndef server(): pytest.skip('x')\ndef test_it(server): pass",
    "test_import.py": "pytest.importorskip('no_such_module')\ndef test_it(): pass",
    "test_not_run.py": "@pytest.mark.xfail(run=False, reason='x')\ndef test_it(): pass",
    "test_expected.py": "@pytest.mark.xfail(reason='known')\ndef test_it(): assert False",
    "test_passes.py": "def test_it(): pass",
}


def run(folder: Path, ci: str) -> str:
    """What a pytest with the hooks of our conftest prints about these modules."""
    for name, body in MODULES.items():
        (folder / name).write_text(f"import pytest\n{body}\n")
    (folder / "pytest.ini").write_text("[pytest]\n")
    options = ["-p", "tests.conftest", "--continue-on-collection-errors"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=folder,
        # None of the plugins that are installed has a part in this, and each takes its time to import.
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return f"exit code {result.returncode}\n{result.stdout}"


def test_no_way_of_skipping_leaves_ci_green(tmp_path: Path) -> None:
    told = run(tmp_path, ci="true")
    assert "exit code 1" in told
    # What is skipped before the test itself begins counts as an error.
    assert "1 failed, 1 passed, 1 xfailed, 5 errors in" in told
    assert "skipped, which counts as failed where CI is set: Skipped: no server" in told


def test_outside_ci_a_skip_is_a_skip(tmp_path: Path) -> None:
    told = run(tmp_path, ci="")
    assert "exit code 0" in told
    assert "1 passed, 5 skipped, 2 xfailed in" in told
