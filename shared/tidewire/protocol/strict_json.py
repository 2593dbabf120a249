"""JSON that every reader reads alike (I-JSON, RFC 7493), and errors with JSON pointers (RFC 6901)."""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import msgspec

from tidewire.errors import InvalidRequest

MAX_DEPTH = 100  # levels of nesting; every JSON reader on the way must be able to follow
MAX_ERRORS = 100  # in one response, which must not be many times as large as the request
MAX_NAME_CHARACTERS = 64  # of a wrong field name in an error

_Body = TypeVar("_Body")


def check_json(body: bytes) -> None:
    """Raise InvalidRequest unless `body` is I-JSON: UTF-8 without a byte order mark, no duplicate keys."""
    if not body or body.isspace():
        raise InvalidRequest("The body is empty")
    if body.startswith(b"\xef\xbb\xbf"):
        raise InvalidRequest("The body begins with a byte order mark: send UTF-8 without one")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8 (at byte {error.start})") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise InvalidRequest(f"The JSON is nested more than {MAX_DEPTH} levels deep")
    if (escape := next(_lone_surrogates(body), None)) is not None:
        raise InvalidRequest(
            f"The body is not valid JSON: the escape {escape[0].decode()} at byte {escape.start()} is a lone surrogate,"
            " half of a character: escape both halves, or send the character itself"
        )
    try:
        _checker.decode(text)
        msgspec.json.decode(body, type=msgspec.Raw)
    except (_InvalidJsonError, json.JSONDecodeError, msgspec.DecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}") from None


def without_lone_surrogates(body: bytes) -> bytes:
    """Return a JSON text with U+FFFD in place of each lone surrogate, and everything else unchanged."""
    parts, end = [], 0
    for escape in _lone_surrogates(body):
        parts += [body[end : escape.start()], rb"\ufffd"]
        end = escape.end()
    return b"".join([*parts, body[end:]])


# All escapes in order, because in `\\ud800` it is the backslash that is escaped.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def _lone_surrogates(body: bytes) -> Iterator[re.Match[bytes]]:
    if b"\\ud" in body or b"\\uD" in body:
        yield from (escape for escape in _ESCAPE.finditer(body) if escape[1] is not None)


class _InvalidJsonError(Exception):
    pass


def _no_duplicates(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        keys: set[str] = set()
        duplicate = next(key for key, _ in pairs if key in keys or keys.add(key))  # type: ignore[func-returns-value]  # add returns None
        raise _InvalidJsonError(f"an object has the key {json.dumps(duplicate[:64])} twice")


def _refuse(constant: str) -> None:
    raise _InvalidJsonError(f"{constant} is not a JSON value")


def _nothing(number: str) -> None:
    """Build no value: only the syntax is checked."""


_checker = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_int=_nothing, parse_float=_nothing, parse_constant=_refuse
)
# Possessive, and the closing quote may be missing: the pattern never fails and never backtracks, so a text of escaped
# quotes costs one pass and not the square of its length.
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))


def _depth(body: bytes) -> int:
    depth = deepest = 0
    for byte in STRING.sub(b"", body).translate(None, _NO_BRACKET):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def decode(decoder: msgspec.json.Decoder[_Body], item: bytes, where: str = "", name: str = "The event") -> _Body:
    """Return the value of `item`, which passed `check_json`. Raises InvalidRequest; its pointers begin with `where`."""
    try:
        return decoder.decode(item)
    except msgspec.ValidationError as error:
        if field := _FIELD.fullmatch(str(error)):
            pointer = where + name_pointer(field[2])
            problem = "is required" if field[1] == "missing required" else "is unknown"
        else:
            problem, _, path = str(error).partition(" - at `$")
            pointer = where + to_pointer(path.removesuffix("`"))
        raise InvalidRequest(f"{pointer or name}: {problem}", [(pointer, problem)]) from None


_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)


def check_all(found: Iterable[tuple[str, Iterable[tuple[str, str]]]], name: str = "The event") -> None:
    """Raise InvalidRequest with every problem of these (pointer prefix, problems), if there is one."""
    problems = ((prefix + pointer, problem) for prefix, items in found for pointer, problem in items)
    errors = list(islice(problems, MAX_ERRORS))
    if errors:
        pointer, problem = errors[0]
        raise InvalidRequest(f"{pointer or name} {problem}", errors)


def to_pointer(path: str) -> str:
    """Return msgspec's path (`.userIds[2]`) as a JSON pointer (`/userIds/2`)."""
    return re.sub(r"\.([^.\[]+)|\[(\d+)\]", lambda match: f"/{match[1] or match[2]}", path)


def name_pointer(name: str) -> str:
    """Return the JSON pointer to a member (RFC 6901 section 3); "" if the name is too long to be a misspelt one.

    The request made the name, so an error repeats only a short one.
    """
    escaped = name.replace("~", "~0").replace("/", "~1")
    return f"/{escaped}" if len(name) <= MAX_NAME_CHARACTERS else ""
