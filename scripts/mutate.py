"""Mutation testing of the core with mutmut: `scripts/mutate` calls it.

mutmut compiles all mutants of a module into it, runs the tests once to record which test calls which function, and
then forks one process per mutant, which runs the tests of the mutated function. The processes are forked before any
test ran ("forkserver"), because some state of a process outlives a test, such as warnings that are logged once.
mutmut mutates functions only: not constants, class bodies, and functions with a decorator other than staticmethod and
classmethod.

A room is mutated in build/mutate/ROOM, which has copies of the package and the tests. The results stay there: the next
run tests only mutants that are new, that belong to a changed function, or that had no turn.
"""

import argparse
import contextlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "shared" / "tidewire"
EQUIVALENT = ROOT / "scripts" / "equivalent_mutants.toml"
PACKAGES = ROOT / "build" / "mutate" / "packages"
WORKERS = 2
NEEDED = 0.85  # of the mutants of a room

FAST = ("tests/unit", "tests/properties")
ALL_IN_MEMORY = (*FAST, "tests/contract", "tests/integration/memory")
OUTAGES = tuple(
    f"tests/integration/fallback/test_{name}.py" for name in ("early_replays", "fallback", "guarded", "waiting_streams")
)
SCHEMES = ("tests/contract/test_partition_schemes.py", "tests/contract/test_scheme_changes.py")
MEMORY = "not (redis or postgres or upstash or [fallback)"  # the store "fallback" is a Redis

ROOMS: Mapping[str, tuple[Sequence[str], str]] = {
    "model": ((*FAST, *SCHEMES), f"memory or {MEMORY} and not streams"),
    "protocol": (FAST, f"{MEMORY} and not streams"),
    "delivery": ((*ALL_IN_MEMORY, *OUTAGES), f"memory or {MEMORY}"),
    "transports/memory.py": (
        ("tests/unit/transports", "tests/contract/test_append.py", "tests/contract/test_tail.py"),
        f"memory or {MEMORY} and not fallback",
    ),
    "transports/redis": (("tests/unit/transports", "tests/unit/settings"), "redis or server_info"),
}
"""Room or module → the folders and files of the tests that are fast and cover it, and pytest's -k for them.

mutmut chooses from these tests by the functions that each of them calls.
"""

# Tests that start processes do not see a mutant, and cost time.
STARTS_PROCESSES = re.compile(r"\bsubprocess\b|MakeInstance|from scripts import")

CONFIGURATION = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = {modules}
also_copy = ["functions", "docs", "scripts"]
do_not_mutate_patterns = ['\\b_?log(ger)?\\.(debug|info|warning|error|exception)\\(']
pytest_add_cli_args = [
    "-m", "not full", "-k", "{expression}", "-p", "no:cacheprovider", "-p", "no:xdist",
    "-p", "no:unraisableexception", "-p", "no:threadexception",  # they collect garbage for longer than most tests run
    "-p", "scripts.mutate_order", "--hypothesis-profile", "mutants",
]
pytest_add_cli_args_test_selection = {tests}
timeout_multiplier = 8.0
timeout_constant = 1.0
track_dependencies = false
use_git_change_detection = false
process_isolation = "forkserver"
"""

KILLED = {"killed", "timeout", "segfault", "suspicious"}

SURVIVED = {"survived", "no tests"}

NO_RUN = 255
"""The exit code if pytest did not find a test by its id. mutmut reports it as a time-out, which would count as killed.

pytest escapes the ids of `parametrize(ids=function)` once more whenever it collects them in one process: avoid such ids
if they have a backslash.
"""


@dataclass
class Result:
    """The mutants of one module."""

    module: str
    statuses: Counter[str] = field(default_factory=Counter)
    survivors: list[str] = field(default_factory=list)
    """Diffs, each below the mutant's name."""

    @property
    def killed(self) -> int:
        """Mutants that a test noticed, also by a time-out or a crash."""
        return sum(self.statuses[status] for status in KILLED)

    @property
    def tested(self) -> int:
        """Mutants that count: not those that are equivalent, and not those that had no turn."""
        return self.statuses.total() - self.statuses["equivalent"] - self.statuses["not checked"]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command line; exits if they are invalid."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__.partition("\n")[0])
    parser.add_argument("chosen", nargs="*", metavar="ROOM or MODULE", help=f"{', '.join(ROOMS)}, or model/cursor.py")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time, and report")
    parser.add_argument("--again", action="store_true", help="test the survivors of earlier runs too")
    parser.add_argument("--report", action="store_true", help="only print the report of earlier runs")
    parsed = parser.parse_args(arguments)
    parsed.rooms = _rooms(parser, parsed.chosen)
    return parsed


def main() -> int:
    """Run the mutants of the chosen rooms and print the report; return 1 if less than 85 % of a room are killed."""
    arguments = parse()
    sys.path.insert(0, str(PACKAGES))
    deadline = time.monotonic() + arguments.seconds
    equivalent = _equivalent()

    enough = True
    for room, modules in arguments.rooms.items():
        folder = ROOT / "build" / "mutate" / room.removesuffix(".py")
        if not arguments.report:
            _prepare(folder, room, modules)
            _forget(folder, modules, {"not checked", *(SURVIVED if arguments.again else ())})
            _run(folder, deadline)
        results = [_read(folder, module, equivalent) for module in modules]
        _print(room, results)
        killed, tested = sum(one.killed for one in results), sum(one.tested for one in results)
        enough &= killed >= NEEDED * tested
    return int(not enough)


def _rooms(parser: argparse.ArgumentParser, chosen: Sequence[str]) -> dict[str, list[str]]:
    """Return each room of the choice with its modules, as paths below shared/tidewire."""
    rooms: dict[str, list[str]] = {}
    for name in chosen or ROOMS:
        room = next((one for one in ROOMS if name == one or name.startswith(f"{one}/")), None)
        path = PACKAGE / name
        if room is None or not path.exists():
            parser.error(f"{name} is neither a room ({', '.join(ROOMS)}) nor a module of one")
        found = sorted(path.glob("*.py")) if path.is_dir() else [path]
        rooms.setdefault(room, []).extend(str(one.relative_to(PACKAGE)) for one in found if one.name != "__init__.py")
    return rooms


def _prepare(folder: Path, room: str, modules: Sequence[str]) -> None:
    """Make the folder in which mutmut runs; mutants and results of earlier runs stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in {"src": "shared", **{one: one for one in ("tests", "functions", "docs", "scripts")}}.items():
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT / target)
    mutants = folder / "mutants"
    mutants.mkdir(exist_ok=True)
    (mutants / "shared").unlink(missing_ok=True)
    (mutants / "shared").symlink_to(ROOT / "shared")  # for tests that read the sources
    for copied in ("tests", "functions", "docs", "scripts"):
        shutil.rmtree(mutants / copied, ignore_errors=True)
    # mutmut does not copy a module that exists already: also one that was not mutated, because another one was chosen.
    # And it does not collect again the calls of a test that changed.
    chosen = {mutants / "src" / "tidewire" / module for module in modules}
    for module in mutants.glob("src/**/*.py"):
        if module not in chosen or "__mutmut_" not in module.read_text():
            module.unlink()
    (mutants / "mutmut-stats.json").unlink(missing_ok=True)
    folders, expression = ROOMS[room]
    tests = [
        str(path.relative_to(ROOT))
        for name in folders
        for path in (sorted((ROOT / name).rglob("test_*.py")) or [ROOT / name])
        if "tidewire" in (text := path.read_text()) and not STARTS_PROCESSES.search(text)
    ]
    configuration = CONFIGURATION.format(
        modules=json.dumps([f"src/tidewire/{module}" for module in modules]),
        tests=json.dumps(tests),
        expression=expression,
    )
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + configuration)


def _run(folder: Path, deadline: float) -> None:
    """Run mutmut until it is done, or until the deadline."""
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(WORKERS)]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTEST_DEBUG_TEMPROOT"] = str(folder)  # other runs of pytest remove folders from the usual one
    with subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True) as process:
        try:
            process.wait(None if deadline == float("inf") else max(0.0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass  # each result is saved at once
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # also the servers of mutants
                time.sleep(1)
                os.killpg(process.pid, signal.SIGKILL)


def _path(folder: Path, module: str) -> Path:
    """Return the file in which mutmut keeps the results of a module."""
    return folder / "mutants" / "src" / "tidewire" / f"{module}.meta"


def _statuses(folder: Path, module: str) -> Iterator[tuple[str, str]]:
    """Return the name and status of each mutant of a module."""
    status_by_exit_code = importlib.import_module("mutmut.stats").status_by_exit_code
    path = _path(folder, module)
    codes = json.loads(path.read_text())["exit_code_by_key"] if path.exists() else {}
    for name, code in codes.items():
        yield name, "not checked" if code == NO_RUN else status_by_exit_code[code]


def _forget(folder: Path, modules: Sequence[str], statuses: Collection[str]) -> None:
    """Make mutmut test the mutants with these results again; otherwise it keeps those of unchanged functions."""
    for module in modules:
        path = _path(folder, module)
        if path.exists():
            found = json.loads(path.read_text())
            for name, status in _statuses(folder, module):
                if status in statuses:
                    found["exit_code_by_key"][name] = None
            path.write_text(json.dumps(found))


def _equivalent() -> set[tuple[str, str, str]]:
    """Return module, line and mutated line of the mutants that no test can kill."""
    listed = tomllib.loads(EQUIVALENT.read_text())["equivalent"]
    return {(one["module"], one["code"], mutant) for one in listed for mutant in one["mutants"]}


def _read(folder: Path, module: str, equivalent: set[tuple[str, str, str]]) -> Result:
    """Return a module's results, with the diffs of the survivors that are not listed as equivalent."""
    result = Result(module)
    for name, status in _statuses(folder, module):
        diff = _diff(folder, module, name) if status in SURVIVED else ""
        is_equivalent = (module, *_changed(diff)) in equivalent
        if diff and not is_equivalent:
            result.survivors.append(f"{name}: {status}\n{diff}")
        result.statuses["equivalent" if is_equivalent else status] += 1
    return result


def _diff(folder: Path, module: str, name: str) -> str:
    show = importlib.import_module("mutmut.mutation.diff_apply").get_diff_for_mutant
    before = Path.cwd()
    os.chdir(folder)
    try:
        return str(show(name, path=Path("src", "tidewire", module)))
    finally:
        os.chdir(before)


def _changed(diff: str) -> list[str]:
    """Return the changed lines of a diff: first those removed, then those added."""
    return [line[1:].strip() for line in diff.splitlines() if re.match(r"-(?!--)|\+(?!\+\+)", line)]


def _print(room: str, results: Sequence[Result]) -> None:
    for result in results:
        for survivor in result.survivors:
            print(survivor, end="\n\n")
    columns = ("mutants", "killed", "survived", "no tests", "equivalent", "not run", "killed %")
    print(f"{room:42}", *(f"{column:>10}" for column in columns))
    total = Counter[str]()
    for result in results:
        _print_row(result.module, result.statuses)
        total += result.statuses
    _print_row("all", total)
    print()


def _print_row(title: str, statuses: Counter[str]) -> None:
    result = Result(title, statuses)
    share = f"{100 * result.killed / result.tested:.1f}" if result.tested else "-"
    others = [statuses[name] for name in ("survived", "no tests", "equivalent", "not checked")]
    print(f"{title:42}", *(f"{number:>10}" for number in (statuses.total(), result.killed, *others, share)))


if __name__ == "__main__":
    sys.exit(main())
