"""All commands: help, version, exit codes, and a start that imports only what it needs."""

import subprocess
import sys

import pytest
import tidewire
from tidewire.tools.cli.main import COMMANDS, command_line

from tests.integration.cli.running import run_process
from tests.support.processes import ROOT, inherited

HEAVY = {"rich", "httpx", "asyncpg", "redis", "jwt", "starlette", "uvicorn", "upstash_redis", "msgspec.json"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_with_an_example(name: str) -> None:
    command = command_line.get_command(command_line.make_context("tidewire", ["--help"], resilient_parsing=True), name)
    assert command is not None
    assert f"tidewire {name}" in (command.epilog or ""), "no example"
    assert command.help


def test_the_help_imports_no_command_and_nothing_heavy() -> None:
    code = (
        "from tidewire.tools.cli.main import main; import sys; main(['--help']); print(*sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(ran.stderr.split())
    assert HEAVY.isdisjoint(loaded)
    assert {f"tidewire.tools.cli.{name}" for name in COMMANDS}.isdisjoint(loaded)
    assert all(name in ran.stdout for name in COMMANDS)


def test_the_version_is_that_of_the_package() -> None:
    ran = run_process("--version")
    assert (ran.code, ran.out) == (0, f"tidewire {tidewire.__version__}\n")


def test_wrong_usage_is_code_2_and_names_the_error() -> None:
    ran = run_process("pubish")
    assert (ran.code, ran.out) == (2, "")
    assert "No such command 'pubish'" in ran.err


def test_the_script_runs_from_any_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """And imports no module from that folder."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "click.py").write_text("raise SystemExit('taken from the current folder')")
    ran = subprocess.run(
        [ROOT / ".venv" / "bin" / "tidewire", "--help"],
        cwd=elsewhere,
        env=inherited(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "migrate" in ran.stdout
