"""`python -m bench [NAME …]`: runs benchmarks, writes bench/results/<name>.json, and renders bench/README.md."""

import argparse
import importlib
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, ModuleType

from bench.client import LOAD, REDIS_PAIR
from bench.process import BenchError
from bench.report import render
from bench.samples import load_all
from bench.self_check import check_client
from bench.session import require_clean_tree, session

NAMES = [
    *("fanout", "peruser", "idle", "rate", "tail", "endtoend", "held", "replay", "herd", "coldstart", "rediscost"),
    "rest",
    "scaling",
]
RESULTS = Path("bench/results")
QUICK_RESULTS = Path("build/bench/quick")  # separate from full results


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed options of `arguments`, or of the command line; exits if they are wrong."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--runs", type=int, help="rounds per pair (5; with --quick 2)")
    parser.add_argument("--quick", action="store_true", help=f"small sizes; results in {QUICK_RESULTS}")
    parser.add_argument("--who", default="", help="only these contestants, separated by commas")
    parser.add_argument(
        "--profile", action="store_true", help=f"write flame graphs of Tidewire to {RESULTS}; the numbers do not count"
    )
    parser.add_argument("--dirty", action="store_true", help="allow uncommitted changes; marks the results")
    parser.add_argument("--report", action="store_true", help="only render the existing results")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.names) - set(NAMES):
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}; known: {', '.join(NAMES)}")
    return chosen


def main() -> int:
    """Run the named benchmarks, or all; return 1 if a run failed."""
    chosen = parse()
    if missing := [str(path) for path in (LOAD, REDIS_PAIR) if not path.exists()]:
        sys.exit(f"bench: {' and '.join(missing)} not built: run scripts/bench, which builds them")

    signal.signal(signal.SIGTERM, _leave)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a descriptor per connection, on both sides

    partial = chosen.quick or chosen.who or chosen.profile  # not for the README
    folder = QUICK_RESULTS if partial else RESULTS
    modules = {name: importlib.import_module(f"bench.measure.{name}") for name in NAMES}
    failed = False
    if not chosen.report:
        try:
            require_clean_tree(chosen.dirty or bool(partial))
        except BenchError as error:
            sys.exit(f"bench: {error}")
        check_client()
    for name in [] if chosen.report else chosen.names or NAMES:
        failed |= not _measure(name, modules[name], chosen, folder)
    render(load_all(folder, NAMES), modules, folder, None if partial else Path("bench/README.md"))
    return int(failed)


def _measure(name: str, module: ModuleType, chosen: argparse.Namespace, folder: Path) -> bool:
    print(f"bench: {module.TITLE}", file=sys.stderr, flush=True)
    runs = chosen.runs or (2 if chosen.quick else 5)
    only = frozenset(part for part in chosen.who.split(",") if part)
    profiles = RESULTS if chosen.profile else None
    if profiles:
        runs, only = 1, frozenset(["tidewire"])
    with session(name, runs=runs, quick=chosen.quick, only=only, profiles=profiles) as current:
        module.measure(current)
    print(f"bench: {current.results.save(folder)}", file=sys.stderr)
    return not current.results.failures


def _leave(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)  # unwinds the `with` blocks, which kill the children


if __name__ == "__main__":
    sys.exit(main())
