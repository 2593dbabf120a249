"""Programs that the documents use and that do not run here: each call is recorded and checked as far as possible.

`check` fails with the reason if a program would refuse the arguments.
"""

import argparse
import contextlib
import functools
import io
import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import yaml
from tidewire.tools.cli.main import command_line

from tests.support.processes import ROOT, inherited

Arguments = Sequence[str]


class WrongCallError(AssertionError):
    """A document calls a program in a way that the program would refuse."""


def check(program: str, arguments: Arguments) -> None:
    """Return if the program would accept these arguments; raises WrongCallError with the reason."""
    if program not in CHECKS:
        raise WrongCallError(f"{program}: no check of its arguments: see tests/repository/docs/stand_ins.py")
    try:
        CHECKS[program](arguments)
    except (WrongCallError, click.ClickException, ValueError, LookupError) as error:
        raise WrongCallError(f"{program} {' '.join(arguments)}: {error!r}") from error


def _nothing(arguments: Arguments) -> None:
    if arguments:
        raise WrongCallError("takes no arguments")


def _tidewire(arguments: Arguments) -> None:
    """The command exists and has these options; arguments may be missing if a text only names the command."""
    command: click.Command = command_line
    rest = list(arguments)
    while rest and isinstance(command, click.Group) and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        if found is None:
            raise WrongCallError(f"has no command {rest[0]}")
        command, rest = found, rest[1:]
    command.make_parser(click.Context(command, help_option_names=["-h", "--help"])).parse_args(rest)


def _python(arguments: Arguments) -> None:
    match list(arguments):
        case ["-m", "tidewire", *rest]:
            _tidewire(rest)
        case ["-m", "functions.local"]:
            pass
        case [script] if (ROOT / script).is_file():
            pass
        case _:
            raise WrongCallError("neither one of our scripts nor a module that documents start")


def _parsed(module: str) -> Callable[[Arguments], None]:
    """Call the `parse` function of a program's module, which exits for invalid arguments."""

    def parse(arguments: Arguments) -> None:
        from importlib import import_module

        output = io.StringIO()
        try:
            with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
                assert isinstance(import_module(module).parse(list(arguments)), argparse.Namespace)
        except SystemExit as end:
            if end.code:
                raise WrongCallError(output.getvalue()) from None

    return parse


_bench = _parsed("bench.__main__")


def _test(arguments: Arguments) -> None:
    for path in arguments:
        if not (ROOT / path).exists():
            raise WrongCallError(f"there is no {path}")


def _package(arguments: Arguments) -> None:
    """The script's own options come first; the rest is for osls."""
    own = dict(
        re.findall(r"^ *(--\w+)\) .*?(shift 2|shift) ;;", (ROOT / "scripts" / "package").read_text(), re.MULTILINE)
    )
    rest = list(arguments)
    while rest and rest[0] in own:
        del rest[: 2 if own[rest[0]] == "shift 2" else 1]
    _osls(["package", *rest])


def _osls(arguments: Arguments) -> None:
    """Osls has the command and the options, and serverless.yml the parameters."""
    words = [word for word in arguments if not word.startswith("-")]
    commands = _osls_commands()
    if not words or words[0] not in commands:
        raise WrongCallError(f"osls has no such command, but {', '.join(commands)}")
    options = commands[words[0]]["options"]
    rest = list(arguments[1:])
    while rest:
        option = rest.pop(0)
        if not option.startswith("--") or option[2:] not in options:
            raise WrongCallError(f"osls {words[0]} has no {option}")
        if options[option[2:]]["type"] != "boolean":
            value = rest.pop(0)
            if option == "--param":
                check_param(value.partition("=")[0])


def check_param(name: str) -> None:
    """Raises WrongCallError if serverless.yml has no such parameter."""
    has = {*re.findall(r"\$\{param:(\w+)", _serverless()), *yaml.safe_load(_without_tags())["params"]["default"]}
    if name not in has:
        raise WrongCallError(f"serverless.yml has no parameter {name}, but {', '.join(sorted(has))}")


@functools.cache
def _serverless() -> str:
    files = [ROOT / "serverless.yml", *sorted((ROOT / "deploy").glob("*.yml"))]
    return "\n".join(file.read_text() for file in files)


def _without_tags() -> str:
    """Return serverless.yml without CloudFormation's tags, which YAML loaders do not know."""
    return re.sub(r"!\w+", "", (ROOT / "serverless.yml").read_text())


@functools.cache
def _osls_commands() -> Mapping[str, Any]:
    """Return osls' own list of commands with their options."""
    (modules,) = (ROOT / ".venv").glob("osls-*/node_modules")
    path = {"PATH": f"{ROOT / '.venv' / 'node' / 'bin'}:{inherited()['PATH']}"}
    script = "console.log(JSON.stringify(Object.fromEntries(require('./osls/lib/cli/commands-schema'))))"
    command = ["node", "-e", script]
    listed = subprocess.run(
        command, cwd=modules, env={**inherited(), **path}, capture_output=True, text=True, check=True
    )
    commands: dict[str, Any] = json.loads(listed.stdout)
    return commands


def _netlify(arguments: Arguments) -> None:
    if list(arguments) != ["dev"]:
        raise WrongCallError("only `dev` is tested, by tests/integration/netlify")


def _cargo(arguments: Arguments) -> None:
    match list(arguments):
        case ["install", str(), "--root", str()]:
            pass
        case _:
            raise WrongCallError("is not `cargo install CRATE --root FOLDER`")


def _cloud(arguments: Arguments) -> None:
    match list(arguments):
        case [] | ["--port", str()]:
            pass
        case _:
            raise WrongCallError("takes only --port")


def _aws(arguments: Arguments) -> None:
    """The service has the command, and its model accepts these options and values."""
    from tests.repository.docs import aws_call  # imported only for a document that needs it

    aws_call.check(arguments)


CHECKS: Mapping[str, Callable[[Arguments], None]] = {
    "tidewire": _tidewire,
    "python": _python,
    "python3": _python,
    "scripts/tidewire": _tidewire,
    "scripts/bench": _bench,
    "scripts/chaos": _parsed("chaos.__main__"),
    "scripts/fuzz": _parsed("tests.properties.fuzz"),
    "scripts/mutate": _parsed("scripts.mutate"),
    "scripts/test": _test,
    "scripts/package": _package,
    "scripts/osls": _osls,
    "scripts/netlify": _netlify,
    "scripts/audit": _nothing,
    "scripts/check": _nothing,
    "scripts/cloud": _cloud,
    "scripts/dev": _nothing,
    "scripts/serve": _nothing,
    "scripts/setup": lambda arguments: None if list(arguments) in ([], ["--dev"]) else _nothing(arguments),
    "aws": _aws,
    "cargo": _cargo,
}
