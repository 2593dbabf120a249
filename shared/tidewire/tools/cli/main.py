"""`tidewire COMMAND`: imports and runs one command, and turns every error into one line and an exit code."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import click

from tidewire import __version__
from tidewire.errors import SettingsError, TidewireError, Unavailable
from tidewire.tools.cli.output import CANNOT_START, FAILED, INTERRUPTED, UNREACHABLE, Failed

COMMANDS: Mapping[str, str] = {
    "publish": "Publish an event, or a file of events.",
    "tail": "Follow events live.",
    "history": "Print the events in the log.",
    "token": "Create a subscriber token.",
    "doctor": "Check a deployment from outside.",
    "migrate": "Update the Postgres schema of the log.",
    "webhook": "Try the rules of realtime.toml on a webhook's payload.",
    "cost": "Estimate the monthly cost in each deployment mode.",
    "completion": "Print the completion script for a shell.",
}
"""The help line of each command. `tail` is `command` in `tidewire.tools.cli.tail`, imported when it is called: the
help of the list and the completion of a command's name import none of them."""

SHELLS = ("bash", "zsh", "fish")


class Commands(click.Group):
    """The commands of `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, None if the name is unknown."""
        if cmd_name in self.commands or cmd_name not in COMMANDS:
            return self.commands.get(cmd_name)
        command: click.Command = importlib.import_module(f"tidewire.tools.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 success, 1 failure, 2 wrong usage or setting, 3 no answer from the server, 130 interrupted."
    " `tidewire COMMAND --help` shows examples; see docs/cli.md.",
)
@click.version_option(__version__, prog_name="tidewire", message="%(prog)s %(version)s")
def command_line() -> None:
    """Publish and follow events, and operate Tidewire."""


@command_line.command(
    epilog="""\b
Examples:
  tidewire completion bash > ~/.local/share/bash-completion/completions/tidewire
  tidewire completion zsh > ~/.zfunc/_tidewire
  tidewire completion fish > ~/.config/fish/completions/tidewire.fish"""
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL."""
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    assert script is not None  # click supports these three
    click.echo(script(context.find_root().command, {}, "tidewire", "_TIDEWIRE_COMPLETE").source())


def main(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; an error is one line on stderr."""
    try:
        code = command_line.main(arguments, prog_name="tidewire", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return CANNOT_START
    except Failed as error:
        return _report(error.message, error.code)
    except click.ClickException as error:
        return _report(error.format_message(), FAILED)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SettingsError as error:
        return _report(str(error), CANNOT_START)
    except Unavailable as error:
        return _report(error.detail, UNREACHABLE)
    except TidewireError as error:
        return _report(str(error), FAILED)
    except BrokenPipeError:  # `tidewire tail | head`: the reader has finished
        sys.stderr.close()
        return 0
    return code if isinstance(code, int) else 0


def run() -> NoReturn:
    """Run the command of this process's arguments, and exit with its code."""
    sys.exit(main(sys.argv[1:]))


def _report(problem: str, code: int) -> int:
    click.echo(f"tidewire: {problem}", err=True)
    return code
