"""A JSON payload as an expression sees it, without a digit lost: its texts of numbers come out as they went in."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from tidewire.ingest.mapping.form import form_to_json
from tidewire.protocol.publish_request import check_json, without_lone_surrogates

_JSON_SPACE = b" \t\r\n"
_MAX_INT_DIGITS = 4_000  # Python refuses to read more than 4,300, and takes its time for less


class Payload:
    """What a provider sent: `body` is strict JSON, `headers` have lower-case names; `is_form`: it came as a form.

    Half a surrogate pair becomes U+FFFD: the provider cannot mend what a user typed there. Making one raises
    InvalidRequest if the body is not JSON that everyone reads alike.
    """

    def __init__(self, body: bytes, headers: Mapping[str, str] | None = None, *, is_form: bool = False) -> None:
        whole = without_lone_surrogates(form_to_json(body) if is_form else body)
        check_json(whole)
        self.body = whole.strip(_JSON_SPACE)
        self.headers = headers or {}
        self.is_form = is_form

    @cached_property
    def value(self) -> Any:
        """The payload as Python values; a number whose text Python would write otherwise is a `Literal`."""
        return json.loads(self.body, parse_int=_integer, parse_float=_fraction)

    def part(self, path: Sequence[str | int]) -> bytes | None:
        """Return the JSON text at a path exactly as it stands in the body, None where there is nothing."""
        raw = self.body
        for step in path:
            found = _member(raw, step) if isinstance(step, str) else _element(raw, step)
            if found is None:
                return None
            raw = bytes(found)
        return raw


class Literal(float):
    """A number with its text: `1e5`, `0.10`, or more digits than a double has. It counts and compares as a float."""

    __slots__ = ("text",)
    text: str


# The expression language asks for the name of a value's class, and knows "float".
Literal.__name__ = "float"


def encode(value: Any) -> bytes:
    """Return the JSON text of what an expression found; raises TypeError, ValueError where it is no JSON value."""
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
    """Whether this can be written as JSON: what was computed may be no number any more; a Literal has its text."""
    return type(value) is not float or math.isfinite(value)
