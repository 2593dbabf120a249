"""One shell per document, which runs its commands from top to bottom, as a reader types them.

The shell finds only the programs of REAL, our scripts, and stand-ins. A server (`scripts/serve`) or a follower
(`curl -N`) is started in the background, and the shell waits until it is ready.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.repository.docs.commands import PROGRAMS, commands_of, follows, serves
from tests.repository.docs.markdown import Block
from tests.repository.docs.stand_ins import CHECKS
from tests.support import servers
from tests.support.processes import ROOT, inherited, wait_until

SECONDS = 30.0  # only a failing test waits this long

REAL = ("openssl", "sed", "cat", "head")  # besides curl and promtool
OF_THE_PRELUDE = ("grep", "mv", "sleep")
FILES = {"delivery.json": "tests/payloads/github/issues.json"}  # files that a reader has from elsewhere

CURL_TIMED_OUT = 28  # `curl -m 1` ends this way

# The shell ignores the signal that ends its children. It waits until a server or follower is ready or dead.
PRELUDE = """
curl={curl}
trap : TERM
await_server() {{
    until $curl -fs "http://127.0.0.1:$PORT/api/health/live" >/dev/null 2>&1; do
        kill -0 "$1" || {{ cat "$2" >&2; return 1; }}
        sleep 0.05
    done
}}
await_follower() {{
    until grep -q realtime.ready "$2" || $curl -fs "$URL/api/metrics" | grep -q '{{state="live"}} [1-9]'; do
        kill -0 "$1" || {{ cat "$2" "$3" >&2; return 1; }}
        sleep 0.05
    done
}}
"""

# The shell returns only the status of a block's last command, so each failure is recorded.
NOTES_FAILURE = """#!/bin/sh
{command} "$@"
status=$?
[ $status = 0 ] || [ $status = {fine} ] || echo "{name} ended with $status" >>{failed}
exit $status
"""

STANDS_IN = r"""#!/bin/sh
{{ printf '%s\0' {name} "$@"; printf '\036'; }} >>{calls}
"""


class Outcome(NamedTuple):
    """The result of a block."""

    output: str  # of the block, or of the command that follows a stream
    follows: bool  # then the output may have more than the document shows
    errors: str
    failed: list[str]  # commands with a wrong exit code
    calls: list[list[str]]  # of stand-ins

    def shows(self, wanted: str) -> bool:
        """Return whether the whole output matches; of a stream, a part is enough."""
        found = re.search(wanted, self.output) if self.follows else re.fullmatch(wanted, self.output.strip())
        return found is not None


class Shell:
    """The shell of one document, with its variables and the settings of `tidewire`."""

    def __init__(self, folder: Path, variables: Mapping[str, str], settings: Mapping[str, str]) -> None:
        self.folder = folder
        self._failed, self._calls = folder / "failed", folder / "calls"
        self._settings = settings
        self._provide()
        (folder / "prelude").write_text(PRELUDE.format(curl=shutil.which("curl")))
        with (folder / "errors").open("wb") as errors:
            self._process = subprocess.Popen(
                ["/bin/sh"],
                cwd=folder / "project",
                env={**inherited(), "PATH": str(folder / "bin"), "HOME": str(folder), "BROWSER": "none"},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        self._say(f". {folder / 'prelude'}")
        for name, value in variables.items():  # not exported: a server that the shell starts does not see them
            self._say(f"{name}={shlex.quote(value)}")

    def _provide(self) -> None:
        """Create the folder of programs, and a project whose scripts are ours or stand-ins."""
        bin, project = self.folder / "bin", self.folder / "project"
        for folder in (bin, project, project / "scripts"):
            folder.mkdir()
        for name in OF_THE_PRELUDE:
            (bin / name).symlink_to(str(shutil.which(name)))
        for name in REAL:
            self._write(bin / name, str(shutil.which(name)))
        self._write(bin / "curl", f"{shutil.which('curl')} --fail-with-body", fine=CURL_TIMED_OUT)
        self._write(bin / "promtool", str(servers.find("promtool")))
        path = f"PATH={shlex.quote(inherited()['PATH'])}"  # for the programs that our scripts need
        given = " ".join(f"{key}=${{{key}:-{shlex.quote(value)}}}" for key, value in self._settings.items())
        for tidewire in (bin / "tidewire", project / "scripts" / "tidewire"):
            self._write(tidewire, f"{path} {given} {ROOT / 'scripts' / 'tidewire'}")
        for name in ("python", "python3"):
            self._write(bin / name, f"{path} {ROOT / '.venv' / 'bin' / 'python'}")
        for name in ("dev", "serve"):
            self._script(project / "scripts" / name, f'#!/bin/sh\n{path} exec {ROOT / "scripts" / name} "$@"\n')
        for name in {*CHECKS, *PROGRAMS, *(f"scripts/{script.name}" for script in (ROOT / "scripts").iterdir())}:
            program = project / name if "/" in name else bin / name
            if not program.exists():
                self._script(program, STANDS_IN.format(name=name, calls=self._calls))
        self._lay_out(project)

    def _lay_out(self, project: Path) -> None:
        """Link the project's files into the reader's project, and add the reader's own files."""
        for entry in ROOT.iterdir():
            if entry.name not in (".git", "scripts"):
                (project / entry.name).symlink_to(entry)
        for file, source in FILES.items():
            shutil.copy(ROOT / source, project / file)

    def _write(self, path: Path, command: str, fine: int = 0) -> None:
        text = NOTES_FAILURE.format(command=command.strip(), name=path.name, failed=self._failed, fine=fine)
        self._script(path, text)

    def _script(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def run(self, block: Block, text: str, variables: Mapping[str, str], until: str = "") -> Outcome:
        """Run a block to its end, or until its follower's output matches `until`."""
        script, output, errors, status = (self.folder / f"{block.line}.{end}" for end in ("sh", "out", "err", "status"))
        followed = self.folder / f"{block.line}.followed"
        for file in (self._failed, self._calls):
            file.unlink(missing_ok=True)
        script.write_text(_with_servers(text, followed) if block.language != "python" else text)
        for name, value in variables.items():
            self._say(f"{name}={shlex.quote(value)}; export {name}")
        start = f"python - <{script}" if block.language == "python" else f". {script}"
        self._say(f"{start} >{output} 2>{errors}; echo $? >{status}.new; mv {status}.new {status}")
        try:
            wait_until(lambda: status.exists() or self._process.poll() is not None, SECONDS)
            if followed.exists() and until:
                with contextlib.suppress(TimeoutError):  # the comparison shows the actual output
                    wait_until(lambda: re.search(until, followed.read_text()) is not None, SECONDS)
        except TimeoutError:
            raise AssertionError(f"{block}: not done after {SECONDS:g} s\n{text}") from None
        failed = self._failed.read_text().splitlines() if self._failed.exists() else []
        self._end_servers()
        code = status.read_text().strip() if status.exists() else "a syntax error"
        return Outcome(
            (followed if followed.exists() else output).read_text(errors="replace"),
            followed.exists(),
            errors.read_text(errors="replace") + (self.folder / "errors").read_text(errors="replace"),
            failed or ([] if code == "0" else [f"the last command ended with {code}"]),
            list(_noted(self._calls)),
        )

    def _end_servers(self) -> None:
        """End the shell's children; the shell itself ignores the signal."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)

    def close(self) -> None:
        """End the shell and its children."""
        assert self._process.stdin is not None
        self._end_servers()
        self._process.stdin.close()
        self._process.wait(SECONDS)


def _noted(file: Path) -> Iterator[list[str]]:
    for call in file.read_text().split("\x1e")[:-1] if file.exists() else []:
        yield call.split("\0")[:-1]


def _with_servers(text: str, followed: Path) -> str:
    """Return the script with servers and followers in the background."""
    return "\n".join(_behind(commands_of(text), followed)) + "\n"


def _behind(commands: Iterable[str], followed: Path) -> Iterator[str]:
    log = followed.with_suffix(".log")
    for command in commands:
        if serves(command):
            yield f"{{\n{command}\n}} >>{log} 2>&1 &\nawait_server $! {log}"
        elif follows(command):
            yield f"{{\n{command}\n}} >{followed} 2>>{log} &\nawait_follower $! {followed} {log}"
        else:
            yield command
