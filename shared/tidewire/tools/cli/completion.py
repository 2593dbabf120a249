"""`tidewire completion`: what a shell needs to complete commands and options."""

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog="""\b
Examples:
  tidewire completion bash > ~/.local/share/bash-completion/completions/tidewire
  tidewire completion zsh > ~/.zfunc/_tidewire
  tidewire completion fish > ~/.config/fish/completions/tidewire.fish"""
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL."""
    completion = get_completion_class(shell)
    assert completion is not None  # click knows these three
    click.echo(completion(context.find_root().command, {}, "tidewire", "_TIDEWIRE_COMPLETE").source())
