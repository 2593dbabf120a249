"""The reader of documents: it detects what would fail for a person, and rejects unknown programs and blocks."""

import re
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.repository.docs.commands import commands_of, follows, serves
from tests.repository.docs.kinds import kind_of
from tests.repository.docs.markdown import Block
from tests.repository.docs.placeholders import NoValueError, filled, pattern_of
from tests.repository.docs.shell import Outcome, Shell
from tests.repository.docs.stand_ins import WrongCallError, check


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell without servers."""
    with closing(Shell(tmp_path_factory.mktemp("reader"), {"NAME": "of the shell"}, {})) as shell:
        yield shell


def run(shell: Shell, line: int, text: str, info: str = "sh") -> Outcome:
    """Run a block of an invented document."""
    return shell.run(Block("made-up.md", line, info, text), text, {"PORT": "9"})


def test_a_failure_in_the_middle_of_a_block_is_reported(shell: Shell) -> None:
    outcome = run(shell, 1, "tidewire nonsense\necho after\n")
    assert outcome.output == "after\n"
    assert outcome.failed == ["tidewire ended with 2"]


def test_a_program_that_is_not_provided_is_not_found(shell: Shell) -> None:
    """Even if this machine has it."""
    outcome = run(shell, 2, "ls /\n")
    assert outcome.failed == ["the last command ended with 127"]
    assert "ls: not found" in outcome.errors


def test_stand_ins_are_recorded_and_variables_are_kept(shell: Shell) -> None:
    """A call is recorded with its arguments, and variables and functions live on in later blocks."""
    assert run(shell, 3, "WHERE='two words'\nput() { aws ssm put-parameter --name \"$1\"; }\n").calls == []
    outcome = run(shell, 4, 'put "$WHERE"\nscripts/osls deploy\n')
    assert outcome.calls == [["aws", "ssm", "put-parameter", "--name", "two words"], ["scripts/osls", "deploy"]]
    assert outcome.failed == []


def test_python_runs_and_its_failure_is_reported(shell: Shell) -> None:
    assert run(shell, 5, "print(6 * 7)\n", "python").output == "42\n"
    outcome = run(shell, 6, "import tidewire.model.event\nraise SystemExit(3)\n", "python")
    assert outcome.failed == ["python ended with 3"]


def test_a_server_that_does_not_start_fails_its_block(shell: Shell) -> None:
    outcome = run(shell, 7, "export REALTIME_TRANSPORT=nonsense\nscripts/serve\n")
    assert outcome.failed == ["the last command ended with 1"]
    assert "REALTIME_TRANSPORT" in outcome.errors


@pytest.mark.parametrize("info", ["ruby", "text", "rb", ""])
def test_a_block_of_no_known_kind_has_none(info: str) -> None:
    assert kind_of(Block("made-up.md", 1, info, "puts 'what is this?'\n")) is None


def test_a_placeholder_without_a_value_is_no_value() -> None:
    with pytest.raises(NoValueError, match="<your own>"):
        filled(Block("made-up.md", 1, "sh", "curl <your own>\n"), {})


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("aws ssm put-parameter --nmae x", "no --nmae"),
        ("aws ssm put-parameter --name x", "Value"),
        ("aws smm put-parameter", "no service smm"),
        ("scripts/osls deploy --stag prod", "no --stag"),
        ("scripts/osls deploy --param orgins=x", "no parameter orgins"),
        ("scripts/osls undeploy", "no such command"),
        ("scripts/package --python 3.13 --nonsense", "no --nonsense"),
        ("scripts/bench nonsense", "no such measurement"),
        ("scripts/chaos --shrt", "--shrt"),
        ("scripts/test tests/nonsense", "there is no tests/nonsense"),
        ("tidewire pubish", "no command pubish"),
        ("tidewire tail --form now", "--form"),
        ("docker run tidewire", "no check of its arguments"),
    ],
)
def test_a_call_that_the_program_would_refuse_is_refused(command: str, reason: str) -> None:
    program, *arguments = command.split()
    with pytest.raises(WrongCallError, match=re.escape(reason)):
        check(program, arguments)


def test_shown_output_is_compared_whole() -> None:
    """Except where the document has `…`."""
    wanted = pattern_of('{"id":"…","duplicate":false}\nid: 1A2FsbAGi…\n')
    assert re.fullmatch(wanted, '{"id":"7","duplicate":false}\nid: 1Zz.9-1')
    assert not re.fullmatch(wanted, '{"id":"7","duplicate":true}\nid: 1Zz.9-1')
    assert not re.fullmatch(wanted, '{"id":"7",\n"duplicate":false}\nid: 1Zz.9-1')


def test_commands_are_split_and_classified() -> None:
    """A command ends with its last line; servers and followers of a stream are recognized."""
    serving, limited = "A=1 python -m functions.local # in one terminal", "curl -sN -m 1 x\ntidewire tail --count 1"
    commands = list(commands_of(f"{serving}\ncurl -sN \\\n  'x\ny'\n{limited}\n"))
    assert commands[1] == "curl -sN \\\n  'x\ny'"
    assert [serves(command) for command in commands] == [True, False, False, False]
    assert [follows(command) for command in commands] == [False, True, False, False]
