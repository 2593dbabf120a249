"""`tidewire bench`: runs scripts/bench, which measures against yardsticks."""

import subprocess
from pathlib import Path

import click

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench"


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h"]},
    epilog="""\b
Examples:
  tidewire bench fanout --quick
  tidewire bench --help""",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Measure Tidewire against its yardsticks: `scripts/bench`, with these arguments (bench/README.md)."""
    context.exit(subprocess.run([SCRIPT, *arguments], check=False).returncode)  # noqa: S603 — a script of ours
