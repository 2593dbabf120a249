"""Price tables for tests: the shipped one, one with a price of 1 each, and modified files."""

from pathlib import Path

from tidewire.tools.cost.prices import KEYS, TABLE, Price, Prices, load

SHIPPED = load()
ONES = Prices("2026-11-26", "USD", "here", {key: Price("units", 1.0, 0.0, (), "-") for key in KEYS}, (), "-")
"""Each price is 1, and nothing is free."""


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    """The shipped table in a file, with replacements."""
    text = TABLE.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    file = folder / "ours.toml"
    file.write_text(text)
    return file
