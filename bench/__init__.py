"""Measures Tidemark against its yardsticks: `scripts/bench`, or `python -m bench`."""
