"""CloudEvents 1.0 as publish requests, in the three HTTP modes (CloudEvents HTTP Protocol Binding 1.0.2)."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from tidewire.errors import ContentTooLarge, InvalidRequest
from tidewire.model import event as rules
from tidewire.model.event import Event
from tidewire.protocol.publish_request import BATCHED, MAX_EVENT_BYTES, STRUCTURED, split
from tidewire.protocol.strict_json import check_all, check_json, name_pointer

MAX_ATTRIBUTES = 32
MAX_ATTRIBUTE_LENGTH = 1_024  # characters
AUDIENCE = "userids"  # our extension attribute: comma-separated user ids

_NAME = re.compile(r"[a-z0-9]{1,64}", re.ASCII)  # the specification says at most 20; others do not enforce it
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_JSON_TYPE = re.compile(r"(application|text)/([a-z0-9.+-]*\+)?json\s*(;.*)?", re.ASCII | re.IGNORECASE)
_ESCAPED = re.compile(r"\\(.)")
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def parse_structured(body: bytes, batched: bool) -> list[Event]:
    """Return the events of a structured or batched body. Raises InvalidRequest, ContentTooLarge."""
    items, single = split(body)
    if single is batched:
        raise InvalidRequest(f"{BATCHED} takes an array, {STRUCTURED} one object")
    parsed = []
    for index, item in enumerate(items):
        where = f"/{index}" if batched else ""
        try:
            members = _members.decode(item)
        except msgspec.ValidationError as error:
            raise InvalidRequest("A CloudEvent is a JSON object", [(where, str(error))]) from None
        data = bytes(members.pop("data", msgspec.Raw(b"null")))
        values = {name: _value(raw) for name, raw in members.items()}
        # JSON Event Format 1.0.2 section 2.2: null is the same as absent.
        parsed.append((where, {name: value for name, value in values.items() if value is not None}, data))
    check_all((where, _problems(values)) for where, values, _ in parsed)
    return [_event(values, data) for _, values, data in parsed]


def parse_binary(headers: Mapping[str, str], body: bytes) -> list[Event]:
    """Return the one event of a binary-mode request: `ce-*` headers, and the data as the body."""
    if len(body) > MAX_EVENT_BYTES:
        raise ContentTooLarge(f"An event may have at most {MAX_EVENT_BYTES // 1024} KiB")
    check_json(body)
    values: dict[str, Any] = {}
    for name, value in headers.items():
        if name.startswith("ce-"):
            if name[3:] in values:
                raise InvalidRequest("A ce- header is repeated", [(name_pointer(name[3:]), "is repeated")])
            values[name[3:]] = _header_text(name, value)
    check_all([("", _problems(values))])
    return [_event(values, body)]


def _value(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.ValidationError:  # an integer of thousands of digits
        return math.inf


def _header_text(name: str, value: str) -> str:
    """Return the value of a `ce-` header, unquoted and percent-decoded once (HTTP Protocol Binding 3.1.3.2)."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = _ESCAPED.sub(r"\1", value[1:-1])
    try:
        # Bytes beyond ASCII have no known encoding: a guess could name another user.
        return unquote(value.encode("ascii").decode(), errors="strict")
    except ValueError:
        problem = (name_pointer(name[3:]), "must be percent-encoded UTF-8")
        raise InvalidRequest("A ce- header cannot be read", [problem]) from None


def _problems(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if values.get("specversion") != "1.0":
        yield "/specversion", 'must be "1.0"'
        return  # another version has other rules
    for name in ("id", "source", "type"):
        if not isinstance(values.get(name), str) or not values[name]:
            yield f"/{name}", "is required, and must be a string that is not empty"
            return
    if values["source"].startswith(rules.RECEIVED):
        yield "/source", f"must not start with {rules.RECEIVED}: these are the sources of received webhooks"
    if "data_base64" in values:
        yield "/data_base64", "is not supported: data must be JSON"
        return
    if len(values) > MAX_ATTRIBUTES:
        yield "", f"has more than {MAX_ATTRIBUTES} attributes"
    yield from attribute_problems(values)
    for pointer, problem in rules.problems(values["type"], values["id"], _audience(values)):
        yield f"/{AUDIENCE}" if pointer.startswith("/userIds") else pointer, problem


def attribute_problems(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (JSON pointer, problem) for every rule that these context attributes break."""
    for name, value in values.items():
        if name != AUDIENCE and names_audience(name):
            yield name_pointer(name), f"is not the audience: its name is {AUDIENCE}, a comma-separated list of user ids"
        elif name == "data" or not _NAME.fullmatch(name):
            # A `ce-data` header would become a second `data` member beside the body's.
            yield name_pointer(name), "is not an attribute name: 1 to 64 lower-case letters and digits, and not data"
        elif not isinstance(value, str) and (name == AUDIENCE or not _is_bool_or_int32(value)):
            yield f"/{name}", "must be a string" + ("" if name == AUDIENCE else ", a 32-bit integer or a boolean")
        elif name != AUDIENCE and (len(str(value)) > MAX_ATTRIBUTE_LENGTH or _CONTROL.search(str(value))):
            yield f"/{name}", f"must have at most {MAX_ATTRIBUTE_LENGTH:,} characters, none of them control characters"
    content_type = values.get("datacontenttype", "application/json")
    if not isinstance(content_type, str) or not _JSON_TYPE.fullmatch(content_type):
        yield "/datacontenttype", "must be a JSON type"
    time = values.get("time")
    if time is not None and not (isinstance(time, str) and rules.moment(time)):
        yield "/time", "must be an RFC 3339 time"


def _is_bool_or_int32(value: object) -> bool:
    return isinstance(value, int) and -(2**31) <= value < 2**31


def names_audience(attribute: str) -> bool:
    """Whether an attribute is `userids`, or could be meant as it: as an extension it would leave the event public.

    That is: equal but for case, hyphens and underscores; one letter added, missing, changed or swapped; or a name that
    other products give an audience. `topics` is reserved, so it is refused as an attribute too.
    """
    name = re.sub("[-_]", "", attribute).lower()
    return name in _AUDIENCES or _is_near(name, AUDIENCE) or _is_near(name, "topics")


_AUDIENCES = {
    "user",
    "users",
    "userlist",
    "useridlist",
    "usersid",
    "uids",
    "audience",
    "recipient",
    "recipients",
}


def _is_near(name: str, wanted: str) -> bool:
    """Whether at most one edit, or one swap of neighbours, turns `name` into `wanted`."""
    while name and name[0] == wanted[:1]:
        name, wanted = name[1:], wanted[1:]
    swapped = name[:2] == wanted[:2][::-1] and name[2:] == wanted[2:]  # also if both are empty
    return swapped or wanted[1:] in (name, name[1:]) or name[1:] == wanted


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise InvalidRequest if a `ce-` header names an audience outside binary mode, where it would be ignored."""
    for name in headers:
        if name.startswith("ce-") and names_audience(name[3:]):
            raise InvalidRequest(
                "ce- headers are read only in binary mode: with ce-specversion and a JSON content type other than"
                f" {STRUCTURED} and {BATCHED}",
                [(name_pointer(name[3:]), "needs ce-specversion")],
            )


def _audience(values: Mapping[str, Any]) -> tuple[str, ...] | None:
    text = values.get(AUDIENCE)
    if not isinstance(text, str):
        return None
    users = (user.strip(" ") for user in text.split(","))  # spaces only: a line end must fail the user id check
    return tuple(dict.fromkeys(user for user in users if user))


def _event(values: Mapping[str, Any], data: bytes) -> Event:
    attributes = {
        name: value if isinstance(value, str) else str(value).lower()
        for name, value in values.items()
        if name not in ("specversion", "id", "type", "datacontenttype", AUDIENCE)
    }
    return Event(values["id"], values["type"], data, _audience(values), attributes)
