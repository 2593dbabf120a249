"""Commands as they stand in documents: where one ends, which program it starts, and whether it ever ends."""

import re
import shlex
from collections.abc import Iterator

_HERE = {"curl", "openssl", "promtool", "python", "python3", "tidewire"}
_STOOD_IN_FOR = {"aws", "cargo", "docker", "git", "npm", "npx", "pip"}
PROGRAMS = _HERE | _STOOD_IN_FOR
"""What a document may name as a program, besides scripts of ours."""

_FUNCTION = re.compile(r"^\w+\(\) *\{")
_SHELL = {"export", "cd", "echo", "for", "if", "while"}


def commands_of(text: str) -> Iterator[str]:
    """The commands of a script, each with its further lines, and the comments and empty lines between."""
    command = ""
    for line in text.splitlines():
        command += line
        if not line.endswith("\\") and _is_closed(command):
            yield command
            command = ""
        else:
            command += "\n"
    if command:
        yield command


def _is_closed(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True


def words_of(command: str) -> list[str]:
    """The program that a command starts, and its arguments, without the variables that stand before it."""
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    while words and re.match(r"^[A-Za-z_]\w*=", words[0]):
        words.pop(0)
    return words


def serves(command: str) -> bool:
    """Whether a command runs a server until it is told to end."""
    match words_of(command):
        case ["scripts/dev" | "scripts/serve", *_] | ["python", "-m", "functions.local"]:
            return True
        case _:
            return False


def follows(command: str) -> bool:
    """Whether a command follows a stream until it is told to end."""
    match words_of(command):
        case ["curl", *options]:
            return any(re.match(r"-\w*N", word) for word in options) and "-m" not in options
        case ["tidewire" | "scripts/tidewire", "tail", *options]:
            return "--count" not in options and not {"-h", "--help"} & {*options}
        case _:
            return False


def is_command(text: str) -> bool:
    """Whether a piece of code within the text is a command to type, and not a name."""
    try:
        words = words_of(text)
    except ValueError:
        return False
    return len(words) > 1 and _is_program(words[0]) and "[OPTIONS]" not in words


def begins_with_command(text: str) -> bool:
    """Whether this reads as a script."""
    try:
        words = words_of(next(commands_of(text)))
    except ValueError:
        return False
    return bool(words) and (_is_program(words[0]) or words[0] in _SHELL or bool(_FUNCTION.match(text)))


def _is_program(word: str) -> bool:
    return word in PROGRAMS or word.startswith(("scripts/", "functions/run_", "aws-lambda-rie"))


def has_server(text: str) -> bool:
    """Whether a script starts a server of its own."""
    return any(map(serves, commands_of(text)))
