"""The command line as a user starts it: a process of its own, with nothing of this shell's settings."""

import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from tests.processes import ROOT, inherited

TIMEOUT = 30.0  # seconds; only a failing test waits so long


class Ran(NamedTuple):
    """What a finished command left."""

    code: int
    out: str
    err: str


def run(*arguments: str, settings: Mapping[str, str] | None = None, text: str = "") -> Ran:
    """Run `python -m shared` to its end; `text` is its standard input."""
    done = subprocess.run(
        [sys.executable, "-m", "shared", *arguments],
        cwd=ROOT,
        env={**inherited(), **(settings or {})},
        input=text,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)
