"""Every command of every document succeeds and prints the output that the document shows."""

import re
import shlex
import subprocess

import pytest

from tests.repository.docs.conftest import Documents
from tests.repository.docs.excuses import RUN_ELSEWHERE, excuse_of, is_read_only
from tests.repository.docs.kinds import of_kind, shown_after
from tests.repository.docs.markdown import Block, blocks, commands_in_text
from tests.repository.docs.placeholders import pattern_of
from tests.repository.docs.stand_ins import check
from tests.support.processes import ROOT

WHAT_TO_DO = (
    "See tests/repository/docs/: shell.py provides programs, stand_ins.py replaces others, placeholders.py has the"
    " values of placeholders, and excuses.py lists what cannot run here, with the reason."
)


def by_document(found: list[Block]) -> list[object]:
    """Return the blocks as parameters; those of one document run in order in one process."""
    return [pytest.param(block, id=str(block), marks=pytest.mark.xdist_group(block.document)) for block in found]


RUN = [block for block in of_kind("shell", "python") if not is_read_only(block)]


@pytest.mark.parametrize("block", by_document(RUN))
def test_a_block_of_commands_prints_the_shown_output(reading: Documents, block: Block) -> None:
    """Without shown output it succeeds; calls of stand-ins are valid, and listed as excuses."""
    outcome = reading.run(block)
    shown = shown_after(block)
    if shown is None:
        assert outcome.failed == [], f"{block}\n{block.text}\n{outcome.output}\n{outcome.errors}\n{WHAT_TO_DO}"
    else:
        assert outcome.shows(pattern_of(shown.text)), (
            f"{shown} shows\n{shown.text}\nand not\n{outcome.output}\n{outcome.errors}"
        )
    for program, *arguments in outcome.calls:
        check(program, arguments)
    programs = sorted({call[0] for call in outcome.calls})
    if excuse_of(block) is None:
        assert programs == [], f"{block} calls {programs}, which are stand-ins: list it in excuses.py"
    else:
        assert programs, f"{block} is in excuses.py, but all of it runs: take it out"


@pytest.mark.parametrize("block", [block for block in of_kind("shell") if is_read_only(block)], ids=str)
def test_a_block_that_is_only_read_is_well_formed(block: Block) -> None:
    """Its syntax is valid, and its files exist."""
    checked = subprocess.run(["sh", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    for name in re.findall(r"@([\w./-]+)", block.text):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("command", commands_in_text(), ids=lambda block: f"{block}-{block.text}")
def test_a_command_within_a_text_runs_or_is_valid(reading: Documents, command: Block) -> None:
    program, *arguments = shlex.split(command.text)
    if program in ("curl", "promtool") or "--help" in arguments:
        assert reading.run(command).failed == []
        return
    check(program, arguments)
    elsewhere = [test for begins, test in RUN_ELSEWHERE.items() if command.text.startswith(begins)]
    assert elsewhere, f"{command}: which test runs {command.text}? Name it in RUN_ELSEWHERE of excuses.py"
    assert (ROOT / elsewhere[0]).is_file(), elsewhere


def test_shown_output_is_below_the_block_that_prints_it() -> None:
    above = {str(shown_after(block)) for block in of_kind("shell", "python")}
    assert [str(block) for block in of_kind("shown") if str(block) not in above] == []
    assert blocks()
