"""`tests/unit` starts no server: each way to start or reach one fails the test that tries."""

from pathlib import Path

from tests.repository.pytest_run import run_pytest

FORBIDDEN = {
    "test_program.py": "import subprocess\ndef test_it(): subprocess.run(['true'])",
    "test_coroutine.py": "def test_it(): asyncio.run(asyncio.create_subprocess_exec('true'))",
    "test_fork.py": "import multiprocessing\n"
    "def test_it(): multiprocessing.get_context('fork').Process(target=print).start()",
    "test_bind.py": "import socket\ndef test_it(): socket.create_server(('127.0.0.1', 0))",
    "test_server.py": "def test_it(): asyncio.run(asyncio.start_server(print, '127.0.0.1', 0))",
    "test_connect.py": "import socket\ndef test_it(): socket.create_connection(('127.0.0.1', 9))",
}
CAUGHT = {
    "test_caught.py": "import subprocess\n"
    "def test_it():\n"
    "    with pytest.raises(BaseException, match='a unit test called'): subprocess.run(['true'])",
}
ALLOWED = {"test_event_loop.py": "def test_it(): asyncio.run(asyncio.sleep(0))"}


def test_a_unit_test_starts_and_reaches_no_server(tmp_path: Path) -> None:
    modules = {name: f"import asyncio\n{body}" for name, body in {**FORBIDDEN, **CAUGHT, **ALLOWED}.items()}
    output = run_pytest(tmp_path, modules, plugin="tests.unit.conftest")
    assert f"{len(FORBIDDEN)} failed, 2 passed, " in output
    # Each of them fails at its end too, and so does the one that catches the exception.
    assert f" {len({**FORBIDDEN, **CAUGHT})} errors in" in output
