"""The client's pure parts in Node, which is quicker than a browser; collected where there is a Node (conftest.py)."""

import subprocess

from tests.processes import ROOT, inherited


def test_the_clients_pure_parts_pass_their_own_tests() -> None:
    command = ["node", "--test", "tests/browser/sse.test.mjs"]
    done = subprocess.run(command, check=False, cwd=ROOT, env=inherited(), capture_output=True, text=True, timeout=45)
    assert done.returncode == 0, done.stdout + done.stderr
