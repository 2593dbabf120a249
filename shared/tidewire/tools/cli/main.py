"""`tidewire COMMAND`: finds the command's module, runs it, and turns every error into one line and an exit code."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import click

from tidewire.errors import SettingsError, TidewireError, Unavailable
from tidewire.tools.cli.exits import CANNOT_START, FAILED, INTERRUPTED, UNREACHABLE, Failed

COMMANDS: Mapping[str, str] = {
    "publish": "Publish an event, or a file of events.",
    "tail": "Follow events live.",
    "history": "Show what the log holds.",
    "token": "Make a subscriber token.",
    "doctor": "Check a deployment from outside.",
    "migrate": "Bring the schema of the log in Postgres up to date.",
    "webhook": "Try the rules of realtime.toml on a webhook's payload.",
    "cost": "Estimate what a month costs, and where.",
    "completion": "Print the completion script for a shell.",
}
"""Each command and its line in the help. `tail` is `command` in `tidewire.tools.cli.tail`: the help of all commands,
and the completion of a command's name, import none of them."""


class Commands(click.Group):
    """The commands of `COMMANDS`, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"tidewire.tools.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 it failed, 2 wrong usage or setting, 3 not reachable now, 130 interrupted."
    " `tidewire COMMAND --help` shows examples; docs/cli.md tells more.",
)
def command_line() -> None:
    """Publish, follow and operate Tidewire."""


def main(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; what went wrong is one line on the standard error."""
    try:
        code = command_line.main(arguments, prog_name="tidewire", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return CANNOT_START
    except Failed as error:
        return _tell(error.message, error.code)
    except click.ClickException as error:
        return _tell(error.format_message(), FAILED)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SettingsError as error:
        return _tell(str(error), CANNOT_START)
    except Unavailable as error:
        return _tell(error.detail, UNREACHABLE)
    except TidewireError as error:
        return _tell(str(error), FAILED)
    except BrokenPipeError:  # `tidewire tail | head`: whoever reads has enough
        sys.stderr.close()
        return 0
    return code if isinstance(code, int) else 0


def run() -> NoReturn:
    """Run the command of this process's arguments, and end with its exit code."""
    sys.exit(main(sys.argv[1:]))


def _tell(problem: str, code: int) -> int:
    click.echo(f"tidewire: {problem}", err=True)
    return code
