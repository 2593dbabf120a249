"""The body of POST /api/publish → events: strict JSON, every rule checked before anything is appended."""

import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

import msgspec

from tidewire.errors import ContentTooLarge, InvalidRequest
from tidewire.model import event as rules
from tidewire.model.event import Event, new_id

MAX_EVENTS = 100
MAX_EVENT_BYTES = 256 * 1024
MAX_BODY_BYTES = 1024 * 1024
MAX_ERRORS = 100  # told in one answer: it must not be many times as large as the request
MAX_DEPTH = 100  # levels of nesting; every JSON reader on the way must be able to follow


class _Draft(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """One event as a publisher writes it. Unknown fields are refused: `userId` for `userIds` would tell everyone."""

    type: str
    data: msgspec.Raw
    user_ids: tuple[str, ...] | None = None
    id: str | None = None


_Body = TypeVar("_Body")
_draft = msgspec.json.Decoder(_Draft)
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])


def parse_events(body: bytes, idempotency_key: str | None = None) -> list[Event]:
    """Return the events of an application/json body: one object or an array of at most `MAX_EVENTS`.

    `idempotency_key` is the header's value: the id of a single event that has none. Raises InvalidRequest with
    pointers to every field that is wrong, and ContentTooLarge.
    """
    items, single = split(body)
    drafts = [decode(_draft, item, "" if single else f"/{index}") for index, item in enumerate(items)]
    if idempotency_key is not None:
        if not single:
            raise InvalidRequest("Idempotency-Key is for a single event; give each event of an array its own id")
        if drafts[0].id not in (None, idempotency_key):
            raise InvalidRequest("Idempotency-Key and the event's id differ", [("/id", "differs from the header")])
        drafts[0].id = idempotency_key
    check_all(
        ("" if single else f"/{index}", rules.problems(draft.type, draft.id, draft.user_ids))
        for index, draft in enumerate(drafts)
    )
    return [
        Event(
            new_id() if draft.id is None else draft.id,
            draft.type,
            bytes(draft.data),
            None if draft.user_ids is None else tuple(dict.fromkeys(draft.user_ids)),
        )
        for draft in drafts
    ]


def split(body: bytes) -> tuple[list[bytes], bool]:
    """Return the events of a body as JSON texts, and whether it was a single one; the JSON is strict from here on."""
    check_json(body)
    single = not body.lstrip(b" \t\r\n").startswith(b"[")
    items = [body] if single else [bytes(item) for item in _raw_list.decode(body)]
    if not items:
        raise InvalidRequest("The array holds no event", [("", "must hold at least one event")])
    if len(items) > MAX_EVENTS:
        raise InvalidRequest(
            f"At most {MAX_EVENTS} events fit in one request, not {len(items)}: send the rest in another",
            [("", f"must hold at most {MAX_EVENTS} events")],
        )
    for index, item in enumerate(items):
        if len(item) > MAX_EVENT_BYTES:
            where = "" if single else f"/{index}"
            raise ContentTooLarge(
                f"An event may have at most {MAX_EVENT_BYTES // 1024} KiB", [(where, f"has {len(item):,} bytes")]
            )
    return items, single


def check_json(body: bytes) -> None:
    """Raise InvalidRequest unless `body` is JSON that everyone reads alike (I-JSON, RFC 7493): UTF-8, no key twice."""
    if not body or body.isspace():
        raise InvalidRequest("The body is empty")
    if body.startswith(b"\xef\xbb\xbf"):
        raise InvalidRequest("The body begins with a byte order mark: send UTF-8 without one")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8 (at byte {error.start})") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise InvalidRequest(f"The JSON is nested more than {MAX_DEPTH} levels deep")
    if (escape := next(_lone_surrogates(body), None)) is not None:
        raise InvalidRequest(
            f"The body is not valid JSON: the escape {escape[0].decode()} at byte {escape.start()} is half a character"
            " (a lone surrogate): escape both halves, or send the character itself"
        )
    try:
        _checker.decode(text)
        msgspec.json.decode(body, type=msgspec.Raw)
    except (_DuplicateKeyError, json.JSONDecodeError, msgspec.DecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}") from None


def without_lone_surrogates(body: bytes) -> bytes:
    """Return a JSON text with U+FFFD for each escape that is half a character, and all else as it is."""
    parts, place = [], 0
    for escape in _lone_surrogates(body):
        parts += [body[place : escape.start()], rb"\ufffd"]
        place = escape.end()
    return b"".join([*parts, body[place:]]) if parts else body


# All escapes in their order: in `\\ud800` it is the backslash that is escaped.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def _lone_surrogates(body: bytes) -> Iterator[re.Match[bytes]]:
    if b"\\ud" in body or b"\\uD" in body:
        yield from (escape for escape in _ESCAPE.finditer(body) if escape[1] is not None)


def check_all(found: Any, name: str = "The event") -> None:
    """Raise InvalidRequest with every problem in (prefix, problems) pairs, if there is one."""
    every = ((prefix + pointer, problem) for prefix, problems in found for pointer, problem in problems)
    errors = list(islice(every, MAX_ERRORS))
    if errors:
        where, problem = errors[0]
        raise InvalidRequest(f"{where or name} {problem}", errors)


class _DuplicateKeyError(Exception):
    pass


def _no_duplicates(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({key for key, _ in pairs}) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _DuplicateKeyError(f"the key {json.dumps(twice[:64])} stands twice in one object")


def _refuse(constant: str) -> None:
    raise _DuplicateKeyError(f"{constant} is not a JSON value")


_nothing: Callable[[str], None] = lambda _: None  # noqa: E731
_checker = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_int=_nothing, parse_float=_nothing, parse_constant=_refuse
)
# Possessive, and with an end that may be missing: it never fails and never goes back, so that a text made of escaped
# quotes costs one pass and not its length squared.
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
    """Return what stands in `item`, JSON that was checked. Raises InvalidRequest with a pointer that begins `where`."""
    try:
        return decoder.decode(item)
    except msgspec.ValidationError as error:
        if field := _FIELD.fullmatch(str(error)):
            # A name that is nowhere near one of ours is not repeated.
            named = f"/{pointer_token(field[2])}" if len(field[2]) <= MAX_TOLD_NAME else ""
            pointer, problem = where + named, "is required" if field[1] == "missing required" else "is unknown"
        else:
            problem, _, path = str(error).partition(" - at `$")
            pointer = where + to_pointer(path.rstrip("`"))
        raise InvalidRequest(f"{pointer or name}: {problem}", [(pointer, problem)]) from None


MAX_TOLD_NAME = 64  # characters of a wrong field name
_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)


def to_pointer(path: str) -> str:
    """Turn msgspec's path (`.userIds[2]`) into a JSON pointer (`/userIds/2`)."""
    return re.sub(r"\.([^.\[]+)|\[(\d+)\]", lambda match: f"/{match[1] or match[2]}", path)


def pointer_token(name: str) -> str:
    """Return a field name as it stands in a JSON pointer (RFC 6901 section 3)."""
    return name.replace("~", "~0").replace("/", "~1")


def idempotency_key(header: str | None) -> str | None:
    """Return the Idempotency-Key header's text; the quotes of its structured form are not part of it."""
    if header is not None and len(header) > 1 and header[0] == header[-1] == '"':
        return header[1:-1]
    return header
