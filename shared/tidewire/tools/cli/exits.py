"""What a command's exit code says, and errors that end one with it."""

import click

FAILED = 1  # it ran, and the answer is no: refused, or a check did not hold
CANNOT_START = 2  # wrong usage, a wrong or missing setting, or a database that `migrate` cannot use
UNREACHABLE = 3  # nobody answers now: the same command may work later
INTERRUPTED = 130  # Ctrl-C, as shells count it


class Failed(click.ClickException):
    """Ends the command with one line and this code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code
