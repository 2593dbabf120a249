"""The shortened durations in bench/README.md are those of the code."""

import ast
from typing import Any

from bench.measure import coldstart, fanout
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
