"""The shortened durations in bench/README.md are those of the code."""

import ast
from typing import Any

from bench import capacity
from bench.__main__ import NAMES
from bench.measure import coldstart, fanout
from bench.report import fill
from bench.samples import load_all
from tests.repository.docs.markdown import text_of
from tests.support.processes import ROOT

WORDS = {3: "three", 5: "five"}


def full(name: str) -> list[Any]:
    """Return a measurement's full values: the first of each `session.pick(full, quick)`."""
    tree = ast.parse((ROOT / "bench" / "measure" / f"{name}.py").read_text())
    picked = []
    for call in ast.walk(tree):
        match call:
            case ast.Call(ast.Attribute(attr="pick"), [ast.Constant() | ast.List() as value, _]):
                picked.append(ast.literal_eval(value))
            case _:
                pass
    return picked


def test_shortened_durations_are_those_of_the_readme() -> None:
    parts = [part for part in text_of("bench/README.md").split("\n\n") if part.startswith("Durations were shortened")]
    assert len(parts) == 1, "bench/README.md must have one paragraph about shortened durations"
    paragraph = " ".join(parts[0].split())
    [tail], [endtoend], [rate] = full("tail"), full("endtoend"), full("rate")
    seconds, [connections] = full("idle")
    assert tail == endtoend
    for cut in (
        f"{WORDS[tail]} seconds per rate for `tail` and `endtoend`",
        f"{rate} events for `rate`",
        f"{seconds:g} s for `idle` with {connections:,} connections",
        f"no bursts through sse-starlette at {fanout.SLOWEST:,} connections",
        f"{WORDS[coldstart.STARTS]} starts per sample for `coldstart`",
    ):
        assert cut in paragraph


def test_tables_of_the_scaling_page_follow_from_the_results() -> None:
    """The page would otherwise keep figures of an older measurement, or of an older model."""
    page = text_of("docs/scaling.md")
    tables = capacity.sections(load_all(ROOT / "bench" / "results", NAMES))
    assert tables, "a measurement that the model needs is missing in bench/results"
    for name in tables:
        assert f"<!-- {name} -->" in page
    assert fill(page, tables) == page


def test_assumptions_of_the_scaling_page_are_the_models() -> None:
    page = " ".join(text_of("docs/scaling.md").split())
    assert f"*c* = {capacity.CONNECTED:.0%}".replace("%", " %") in page
    assert f"*e* = {capacity.EVENTS_PER_DAY}, *p* = {capacity.PEAK}," in page
    assert f"*U* · *c* / {capacity.STREAMS:,}, rounded up, and one more" in page
    assert capacity.BUSY == 0.5
    assert capacity.USABLE == 0.75
    assert capacity.CELL == 1_000_000
    for node, _, hourly in capacity.NODES:
        assert f"{node} {hourly}" in page
