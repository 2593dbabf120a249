"""`python -m chaos`: runs the phases, and writes their results into docs/reliability.md."""

import argparse
import asyncio
import random
import resource
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from bench.client import LOAD
from bench.process import BenchError
from bench.session import require_clean_tree
from chaos import recovery, report
from chaos.phases import FULL, SHORT, Outcome, Phase, run


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed options of `arguments`, or of the command line; exits if they are wrong."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    names = [phase.name for phase in FULL]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(names)}, recovery; default: all")
    parser.add_argument("--short", action="store_true", help="a few seconds per phase; writes no results")
    parser.add_argument("--seed", type=int, help="seed of the order of faults")
    parser.add_argument("--seconds", type=int, help="duration of each phase")
    parser.add_argument("--dirty", action="store_true", help="allow uncommitted changes; marks the results")
    parser.add_argument("--report", action="store_true", help="only render the existing results")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.names) - {*names, "recovery"}:
        parser.error(f"no such phase: {', '.join(sorted(unknown))}")
    return chosen


def main() -> int:
    """Run the named phases, or all; return 1 after a loss, a duplicate or a gap."""
    chosen = parse()
    if not LOAD.exists():
        sys.exit(f"chaos: {LOAD} is not built: run scripts/chaos, which builds it")
    signal.signal(signal.SIGTERM, _leave)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a descriptor per connection, on both sides

    if not chosen.report:
        try:
            require_clean_tree(chosen.dirty or chosen.short)
        except BenchError as error:
            sys.exit(f"chaos: {error}")

    failed = False
    phases = SHORT if chosen.short else FULL
    for phase in [] if chosen.report else phases:
        if not chosen.names or phase.name in chosen.names:
            own = replace(phase, seconds=chosen.seconds or phase.seconds)
            failed |= not _run(own, chosen.seed, keep=not chosen.short)
    if not chosen.short:
        if not chosen.report and (not chosen.names or "recovery" in chosen.names):
            asyncio.run(recovery.measure(_say))
        report.render()
    return int(failed)


def _run(phase: Phase, seed: int | None, *, keep: bool) -> bool:
    seed = random.randrange(2**32) if seed is None else seed
    _say(f"{phase.title}, {phase.connections:,} connections, {phase.seconds} s, --seed {seed}")
    with tempfile.TemporaryDirectory(prefix="tidewire-chaos-") as folder:
        try:
            outcome: Outcome = asyncio.run(run(phase, Path(folder), seed, _say))
        except BenchError as error:
            _say(f"FAILED: {error}")
            return False
    latency = outcome.done["latency_us"]
    _say(
        f"  {outcome.done['published']:,} published, {outcome.done['deliveries']:,} delivered, "
        f"{len(outcome.struck)} faults, {outcome.done['publish_retries']} POSTs retried, "
        f"{outcome.done['lost_connections']} connections lost; ms p50 {latency['p50'] / 1e3:.1f}, "
        f"p99 {latency['p99'] / 1e3:.0f}, max {latency['max'] / 1e3:.0f}"
    )
    _say(f"  WRONG: {outcome.wrong}" if outcome.wrong else "  no loss, no duplicate, no gap")
    if keep:
        report.save(outcome)
    return not outcome.wrong


def _say(text: str) -> None:
    print(f"chaos: {text}", file=sys.stderr, flush=True)


def _leave(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)  # unwinds the `with` blocks, which stop the children


if __name__ == "__main__":
    sys.exit(main())
