"""Benchmarks of Tidewire and its competitors: `scripts/bench`, or `python -m bench`."""
