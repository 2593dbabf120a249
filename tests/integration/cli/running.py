"""Runs commands without this shell's settings."""

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from click.testing import CliRunner
from tidewire.tools.cli.main import main

from tests.support.processes import ROOT, inherited

TIMEOUT = 30.0  # seconds; only a failing test waits so long


class Ran(NamedTuple):
    """The exit code and output of a command."""

    code: int
    out: str
    err: str


def run(*arguments: str, settings: Mapping[str, str] | None = None, text: str = "") -> Ran:
    """Run a command within this process, which is faster; `text` is its stdin."""
    others = {name: None for name in os.environ if name not in inherited()}
    runner = CliRunner()
    with runner.isolation(text, {**others, **(settings or {})}) as (out, err, _):
        code = main(arguments)
        return Ran(code, out.getvalue().decode(), err.getvalue().decode())


def run_process(*arguments: str, settings: Mapping[str, str] | None = None) -> Ran:
    """Run `python -m tidewire`."""
    done = subprocess.run(
        [sys.executable, "-m", "tidewire", *arguments],
        cwd=ROOT,
        env={**inherited(), **(settings or {})},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)
