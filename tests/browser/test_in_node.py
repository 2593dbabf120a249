"""Unit tests of the client's pure functions, in Node; conftest.py skips this file without Node."""

import subprocess

from tests.support.processes import ROOT, inherited


def test_pure_functions_pass_their_unit_tests() -> None:
    command = ["node", "--test", "tests/browser/sse.test.mjs"]
    done = subprocess.run(command, check=False, cwd=ROOT, env=inherited(), capture_output=True, text=True, timeout=45)
    assert done.returncode == 0, done.stdout + done.stderr
