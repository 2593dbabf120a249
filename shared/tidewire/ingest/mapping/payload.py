"""The payload of a delivery, JSON or a form, for expressions to search. Numbers keep every digit."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from tidewire.errors import InvalidRequest
from tidewire.protocol.strict_json import check_json, without_lone_surrogates

FORM_MEDIA_TYPE = "application/x-www-form-urlencoded"
MAX_FORM_FIELDS = 1_000

_JSON_SPACE = b" \t\r\n"
_MAX_INT_DIGITS = 4_000  # Python refuses to parse more than 4,300 digits, and parses fewer in quadratic time

# The characters that form encoders write. JSON has quotes or begins with a bracket, so a body that was signed as JSON
# never passes for a form: no signature covers the content type.
_FORM = re.compile(rb"(?!\[)[A-Za-z0-9%+&=*._~!'(),;:@/?$[\]-]*")


class Payload:
    """The payload of one delivery: `body` is strict JSON, `headers` have lower-case names, `is_form` if sent as a form.

    A lone surrogate becomes U+FFFD: a user typed it, and the provider cannot correct it. The constructor raises
    InvalidRequest unless the body is I-JSON (see `check_json`), or a form if `is_form`.
    """

    def __init__(self, body: bytes, headers: Mapping[str, str] | None = None, *, is_form: bool = False) -> None:
        whole = without_lone_surrogates(form_to_json(body) if is_form else body)
        check_json(whole)
        self.body = whole.strip(_JSON_SPACE)
        self.headers = headers or {}
        self.is_form = is_form

    @cached_property
    def value(self) -> Any:
        """The payload as Python values; a number that Python would format differently is a `Literal`."""
        return json.loads(self.body, parse_int=_integer, parse_float=_fraction)

    def part(self, path: Sequence[str | int]) -> bytes | None:
        """Return the JSON text at a path, byte by byte as in the body; None if the path does not exist."""
        raw = self.body
        for step in path:
            found = _member(raw, step) if isinstance(step, str) else _element(raw, step)
            if found is None:
                return None
            raw = bytes(found)
        return raw


class Literal(float):
    """A float that keeps its JSON text: `1e5`, `0.10`, or more digits than a double holds."""

    __slots__ = ("text",)
    text: str


# jmespath looks a value's type up by the name of its class, and knows "float" only.
Literal.__name__ = "float"


def encode(value: Any) -> bytes:
    """Return the JSON text of an expression's result. Raises TypeError or ValueError if it is not a JSON value."""
    return msgspec.json.encode(value, enc_hook=_encode_literal)


def _encode_literal(value: object) -> msgspec.Raw:
    if isinstance(value, Literal):
        return msgspec.Raw(value.text.encode())
    raise TypeError("not a JSON value")


def _integer(text: str) -> int | Literal:
    if text == "-0" or len(text) > _MAX_INT_DIGITS:
        return _fraction(text)
    return int(text)


def _fraction(text: str) -> Literal:
    number = Literal(text)
    number.text = text
    return number


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_elements = msgspec.json.Decoder(list[msgspec.Raw])


def _member(raw: bytes, name: str) -> msgspec.Raw | None:
    try:
        return _members.decode(raw).get(name)
    except msgspec.ValidationError:
        return None  # not an object


def _element(raw: bytes, place: int) -> msgspec.Raw | None:
    try:
        return _elements.decode(raw)[place]
    except (msgspec.ValidationError, IndexError):
        return None


def is_finite(value: object) -> bool:
    """Whether JSON can represent the value: a computed float may be infinite or NaN; a Literal has its own text."""
    return type(value) is not float or math.isfinite(value)


def form_to_json(body: bytes) -> bytes:
    """Return a form (URL Standard, section 5) as JSON: the value of `payload` if it is the only field, as GitHub and
    Slack send it, else an object of strings.

    A repeated field becomes a list. Bytes that are not UTF-8 become U+FFFD. Raises InvalidRequest.
    """
    if not _FORM.fullmatch(body):
        raise InvalidRequest(f"The body is not {FORM_MEDIA_TYPE}")
    fields = body.split(b"&")
    if len(fields) > MAX_FORM_FIELDS:
        raise InvalidRequest(f"The form has more than {MAX_FORM_FIELDS:,} fields")
    values: dict[str, list[str]] = {}
    for field in fields:
        if field:
            name, _, value = field.partition(b"=")
            values.setdefault(_decode(name), []).append(_decode(value))
    if values.keys() == {"payload"} and len(values["payload"]) == 1:
        return values["payload"][0].encode()
    return msgspec.json.encode({name: texts[0] if len(texts) == 1 else texts for name, texts in values.items()})


def _decode(encoded: bytes) -> str:
    return unquote_to_bytes(encoded.replace(b"+", b" ")).decode("utf-8", "replace")
