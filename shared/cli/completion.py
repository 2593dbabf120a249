"""`tidemark completion`: what a shell needs to complete commands and options."""

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog="""\b
Examples:
  tidemark completion bash > ~/.local/share/bash-completion/completions/tidemark
  tidemark completion zsh > ~/.zfunc/_tidemark
  tidemark completion fish > ~/.config/fish/completions/tidemark.fish"""
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL."""
    completion = get_completion_class(shell)
    assert completion is not None  # click knows these three
    click.echo(completion(context.find_root().command, {}, "tidemark", "_TIDEMARK_COMPLETE").source())
