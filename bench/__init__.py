"""Measures Tidewire against its yardsticks: `scripts/bench`, or `python -m bench`."""
