"""Fault injection under load: `scripts/chaos`, or `python -m chaos`. Writes the tables of docs/reliability.md."""
