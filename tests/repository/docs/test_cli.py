"""docs/cli.md lists every command with the options of `--help`, and the examples of a help are valid."""

import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

import click
import pytest
from tidewire.tools.cli.main import COMMANDS, command_line

from tests.integration.cli.running import run
from tests.repository.docs.commands import commands_of, words_of
from tests.repository.docs.conftest import Documents
from tests.repository.docs.kinds import of_kind
from tests.repository.docs.markdown import Block, table_rows, text_of
from tests.repository.docs.placeholders import pattern_of
from tests.repository.docs.stand_ins import check

DOCUMENT = "docs/cli.md"
BAR = r"\|"  # within a cell
CONTEXT = click.Context(command_line, info_name="tidewire", help_option_names=["-h", "--help"])


class Command(NamedTuple):
    """A command that is not a group, with its full name."""

    usage: str
    options: list[list[str]]  # the rows of the help: syntax and meaning
    examples: list[str]

    @property
    def section(self) -> str:
        """The section that docs/cli.md should have."""
        if not self.options:
            return f"### `{self.usage}`\n\nNo options.\n"
        rows = "".join(f"| {' | '.join(cell.replace('|', BAR) for cell in row)} |\n" for row in self.options)
        return f"### `{self.usage}`\n\n| option | |\n|---|---|\n{rows}"


def commands() -> list[Command]:
    """Return every command, including those of groups."""
    return list(_below(command_line, CONTEXT))


def _below(command: click.Command, context: click.Context) -> Iterator[Command]:
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _below(found, click.Context(found, context, name, help_option_names=["-h", "--help"]))
        return
    records = [option.get_help_record(context) for option in command.params if isinstance(option, click.Option)]
    yield Command(
        " ".join([context.command_path, *command.collect_usage_pieces(context)]),
        [[f"`{written}`", re.sub(" +", " ", meaning)] for written, meaning in filter(None, records)],
        re.findall(r"tidewire [^|)>\n]*", command.epilog or ""),
    )


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.usage)
def test_the_document_has_every_option_of_the_help(command: Command) -> None:
    _, *rows = table_rows(DOCUMENT, f"`{command.usage}`") or [[]]
    is_there = f"\n### `{command.usage}`\n" in text_of(DOCUMENT)
    assert (is_there, rows) == (True, command.options), f"{DOCUMENT} should say:\n\n{command.section}"


def test_the_document_lists_commands_in_the_helps_order() -> None:
    listed = [row[0] for row in table_rows(DOCUMENT, "Command line") if row[0] not in ("command", "variable")]
    names = [name for name in (cell.strip("`").split()[0] for cell in listed) if name in COMMANDS]
    assert names == list(COMMANDS)


@pytest.mark.parametrize("block", of_kind("transcript"), ids=str)
def test_a_transcript_shows_the_real_output(reading: Documents, block: Block) -> None:
    """Each line that begins with `$` is a command, followed by its output."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, *_ = commands_of(part)
        program, *arguments = words_of(command)
        assert program == "tidewire", f"{block}: {program} belongs into a block of `sh`, its output into the next block"
        ran = run(*arguments, settings=reading.settings())
        assert (ran.code, ran.err) == (0, "")
        shown = part.removeprefix(f"{command}\n")
        assert re.fullmatch(pattern_of(shown), ran.out.strip()), f"{block} shows\n{shown}\nand not\n{ran.out}"


@pytest.mark.parametrize("example", [example for command in commands() for example in command.examples])
def test_an_example_of_a_help_is_valid(example: str) -> None:
    program, *arguments = shlex.split(example)
    check(program, arguments)
