"""Finds the programs that the tests start.

`python -m tests.support.servers [NAME…]` prints their paths, or one line for the first that is missing.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class ServerNotFoundError(Exception):
    """No program on this machine fits; the message names what to install."""


@dataclass(frozen=True, slots=True)
class Server:
    """A kind of program: the places to look for it, and the minimum version."""

    variable: str  # names the program, and then no other is considered
    names: tuple[str, ...]
    at_least: tuple[int, int]
    elsewhere: tuple[str, ...] = ()  # where an installer puts it outside PATH; * stands for any version
    from_playwright: bool = False
    version_option: str = "--version"


SERVERS = {
    "redis": Server("TIDEWIRE_REDIS_SERVER", ("redis-server", "valkey-server"), (6, 2)),
    "valkey": Server("TIDEWIRE_VALKEY_SERVER", ("valkey-server",), (8, 0)),
    "postgres": Server(
        "TIDEWIRE_POSTGRES",
        ("postgres",),
        (14, 0),
        elsewhere=(
            "/usr/lib/postgresql/*/bin/postgres",  # Debian
            "/usr/pgsql-*/bin/postgres",
            "/opt/homebrew/opt/postgresql@*/bin/postgres",
            "/usr/local/opt/postgresql@*/bin/postgres",
            "/Applications/Postgres.app/Contents/Versions/*/bin/postgres",
            f"{sys.prefix}/postgres/*/pginstall/bin/postgres",
        ),
    ),
    "pgbouncer": Server("TIDEWIRE_PGBOUNCER", ("pgbouncer",), (1, 16), elsewhere=("/usr/sbin/pgbouncer",)),
    "nginx": Server("TIDEWIRE_NGINX", ("nginx",), (1, 18), elsewhere=("/usr/sbin/nginx",), version_option="-v"),
    "promtool": Server("TIDEWIRE_PROMTOOL", ("promtool",), (2, 40)),
    "chromium": Server(
        "TIDEWIRE_CHROMIUM",
        ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
        (120, 0),
        elsewhere=("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",),
        from_playwright=True,
    ),
}

# Only the driver of Playwright knows where `playwright install` put the browser. It takes 0.5 s, so it comes last.
ASK_PLAYWRIGHT = """
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    print(playwright.chromium.executable_path)
"""


def find(name: str) -> Path:
    """The program to start for a key of SERVERS; raises ServerNotFoundError if there is none."""
    server = SERVERS[name]
    chosen = os.environ.get(server.variable)
    for path in [Path(chosen)] if chosen else _candidates(server):
        if _version(path, server.version_option) >= server.at_least:
            return path
    wanted = f"{server.names[0]} {server.at_least[0]}.{server.at_least[1]} or newer"
    if chosen:
        message = f"{server.variable}={chosen} is no {wanted}"
    else:
        message = f"found no {wanted}: install one, or name it with {server.variable}=/path/to/it"
    raise ServerNotFoundError(message)


def _candidates(server: Server) -> Iterator[Path]:
    # scripts/setup puts the ones that it brings beside Python.
    folders = [*os.get_exec_path(), str(Path(sys.executable).parent)]
    yield from (Path(folder, name) for name in server.names for folder in folders)
    for pattern in server.elsewhere:
        yield from sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)
    if server.from_playwright:
        yield Path(_output([sys.executable, "-c", ASK_PLAYWRIGHT]).strip())


def _version(program: Path, option: str = "--version") -> tuple[int, int]:
    """The version that a program prints; (0, 0) if it does not run."""
    match = re.search(r"(\d+)\.(\d+)", _output([str(program), option]))
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _output(command: list[str]) -> str:
    """The output of a command, stderr included; empty if it fails, e.g. without a shared library."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout or done.stderr
    except (OSError, subprocess.SubprocessError):
        return ""


def main(names: list[str]) -> None:
    """Prints the path of each of these programs, or of all."""
    for name in names or SERVERS:
        try:
            print(find(name))
        except ServerNotFoundError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
