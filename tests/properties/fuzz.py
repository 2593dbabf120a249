"""Plays stories about the delivery core, seed after seed, for a given time: `scripts/fuzz`."""

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.properties.delivery import play
from tests.properties.judge import FAULTS, Verdict

REPORT_SECONDS = 30.0  # between two lines about how far it is


def say(*lines: object) -> None:
    """Write lines to the terminal at once."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


class Total:
    """What all stories of one kind came to."""

    def __init__(self, name: str) -> None:
        self.counts: Counter[str] = Counter()
        self._name = name

    def add(self, verdict: Verdict) -> None:
        self.counts["interleavings"] += 1
        self.counts.update({kind: getattr(verdict, kind) for kind in ("connections", "frames", "events", *FAULTS)})

    def __str__(self) -> str:
        kinds = ("interleavings", "connections", "frames", "events", *FAULTS)
        return f"{self._name}: " + ", ".join(f"{self.counts[kind]:,} {kind.replace('_', ' ')}" for kind in kinds)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default 60); 0: one seed")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (default 0)")
    return parser.parse_args(arguments)


def main() -> int:
    """Return 1 if a promise was broken."""
    options = parse()
    logging.disable(logging.CRITICAL)  # outages are part of the stories
    totals = {False: Total("without early delivery"), True: Total("with early delivery")}
    failed: list[str] = []
    began = reported = time.monotonic()
    seed = options.seed
    while True:
        for early, total in totals.items():
            verdict = play(seed, early=early)
            total.add(verdict)
            if verdict.faults:
                failed.append(f"{seed}{' early' if early else ''}")
                say(f"seed {failed[-1]}:", *verdict.faults)
        seed += 1
        now = time.monotonic()
        if now - began >= options.seconds:
            break
        if now - reported >= REPORT_SECONDS:
            reported = now
            say(f"{now - began:,.0f} s, up to seed {seed - 1}, {len(failed)} failed")
    say(f"seeds {options.seed} to {seed - 1} in {time.monotonic() - began:,.0f} s")
    say(*totals.values())
    say(f"failing seeds: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
