"""Nothing is lost, repeated or reordered, whatever happens at the same moment: random stories, one per seed."""

import subprocess
from pathlib import Path

import pytest

from tests.properties.delivery import play
from tests.support.processes import ROOT

SEEDS = [
    int(seed)
    for line in Path(__file__).with_name("seeds.txt").read_text().splitlines()
    if not line.startswith("#")
    for seed in line.split()
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("early", [False, True], ids=["plain", "early"])
def test_no_seed_breaks_a_promise(early: bool) -> None:
    failed = {seed: verdict.faults for seed in SEEDS if (verdict := play(seed, early=early)).faults}
    assert failed == {}


def test_a_seed_tells_one_story() -> None:
    """A failing seed fails again; otherwise the fuzz would be useless."""
    for seed in (1, 94, 159):
        first, second = play(seed, early=True), play(seed, early=True)
        assert first.events > 10
        assert first == second


def test_the_fuzz_counts_and_exits_with_zero() -> None:
    done = subprocess.run(
        [ROOT / "scripts/fuzz", "--seconds", "0", "--seed", "7"], capture_output=True, text=True, check=True, timeout=55
    )
    assert "seeds 7 to 7" in done.stdout
    assert "with early delivery: 1 interleavings" in done.stdout
    assert done.stdout.endswith("failing seeds: none\n")
