"""With CI set, a green run means that every test ran."""

from pathlib import Path

from tests.repository.pytest_run import run_pytest

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


def test_no_way_of_skipping_leaves_ci_green(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, MODULES, plugin="tests.conftest", ci="true")
    assert "exit code 1" in output
    # A skip before the test itself begins counts as an error.
    assert "1 failed, 1 passed, 1 xfailed, 5 errors in" in output
    assert "skipped, which counts as failed where CI is set: Skipped: no server" in output


def test_outside_ci_a_skip_is_a_skip(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, MODULES, plugin="tests.conftest")
    assert "exit code 0" in output
    assert "1 passed, 5 skipped, 2 xfailed in" in output
