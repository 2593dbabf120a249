"""The Content-Type of a request (RFC 9110 section 8.3.1)."""

import re
from collections.abc import Iterable

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'\s*;\s*(?:({_NAME})\s*=\s*({_NAME}|"(?:[^"\\]|\\.)*"))?')
_TYPE = re.compile(rf"\s*({_NAME}/{_NAME})")


def media_type(lines: Iterable[str]) -> str | None:
    """Return the media type in lower case, None if it is none, its charset is not UTF-8, or two of them differ.

    lines: the header's values. Parameters other than `charset` say nothing about how a body is read here, and are
    passed over; whoever sends the same header twice means the same by it.
    """
    found = {_read(line) for line in lines}
    return found.pop() if len(found) == 1 else None


def _read(text: str) -> str | None:
    kind = _TYPE.match(text)
    if kind is None:
        return None
    place, charset = kind.end(), "utf-8"
    while (parameter := _PARAMETER.match(text, place)) is not None:
        place = parameter.end()
        if parameter[1] is not None and parameter[1].lower() == "charset":
            charset = parameter[2].strip('"').lower()
    is_whole = not text[place:].strip()
    return kind[1].lower() if is_whole and charset in ("utf-8", "utf8") else None
