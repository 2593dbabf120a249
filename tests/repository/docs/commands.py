"""Commands in documents: their end, their program, and whether they run until they are stopped."""

import re
import shlex
from collections.abc import Iterator

_HERE = {"curl", "openssl", "promtool", "python", "python3", "tidewire"}
_STOOD_IN_FOR = {"aws", "cargo", "docker", "git", "npm", "npx", "pip"}
PROGRAMS = _HERE | _STOOD_IN_FOR
"""The programs that a document may use, besides our scripts."""

_FUNCTION = re.compile(r"^\w+\(\) *\{")
_SHELL = {"export", "cd", "echo", "for", "if", "while"}


def commands_of(text: str) -> Iterator[str]:
    """Yield the commands of a script with their continuation lines, and the comments and empty lines between."""
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
    """Return the program of a command and its arguments, without the variables before it."""
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    while words and re.match(r"^[A-Za-z_]\w*=", words[0]):
        words.pop(0)
    return words


def serves(command: str) -> bool:
    """Return whether a command runs a server until it is stopped."""
    match words_of(command):
        case ["scripts/dev" | "scripts/serve", *_] | ["python", "-m", "functions.local"]:
            return True
        case _:
            return False


def follows(command: str) -> bool:
    """Return whether a command follows a stream until it is stopped."""
    match words_of(command):
        case ["curl", *options]:
            return any(re.match(r"-\w*N", word) for word in options) and "-m" not in options
        case ["tidewire" | "scripts/tidewire", "tail", *options]:
            return "--count" not in options and not {"-h", "--help"} & {*options}
        case _:
            return False


def is_command(text: str) -> bool:
    """Return whether inline code is a command to type, and not a name."""
    try:
        words = words_of(text)
    except ValueError:
        return False
    return len(words) > 1 and _is_program(words[0]) and "[OPTIONS]" not in words


def begins_with_command(text: str) -> bool:
    """Return whether a text begins like a script."""
    try:
        words = words_of(next(commands_of(text)))
    except ValueError:
        return False
    return bool(words) and (_is_program(words[0]) or words[0] in _SHELL or bool(_FUNCTION.match(text)))


def _is_program(word: str) -> bool:
    return word in PROGRAMS or word.startswith(("scripts/", "functions/run_", "aws-lambda-rie"))


def has_server(text: str) -> bool:
    """Return whether a script starts a server."""
    return any(map(serves, commands_of(text)))
