"""A pytest plugin for scripts/mutate: the fastest tests run first, since the first one that fails kills the mutant."""

import json
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests by the time that they took when mutmut recorded which functions they call."""
    recorded = Path("mutmut-stats.json")
    if recorded.exists():
        seconds = json.loads(recorded.read_text())["duration_by_test"]
        items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))
