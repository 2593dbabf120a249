"""Load while things break: `scripts/chaos`, or `python -m chaos`. Writes what docs/reliability.md tells."""
