"""HTTP headers: the security headers of every response, and the parsing of request headers."""

import re
from collections.abc import Iterable

from tidewire.errors import InvalidRequest

SECURITY = {
    "x-content-type-options": "nosniff",  # JSON never runs as a script
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",  # no response is a page
    "referrer-policy": "no-referrer",  # a URL may hold a ticket
    "cross-origin-resource-policy": "same-origin",  # has no effect on the CORS requests of allowed origins
}
"""On every response (OWASP REST Security Cheat Sheet, "Security headers").

Strict-Transport-Security is missing: only the proxy in front knows that every request is encrypted.
"""

SINGLE = frozenset({b"authorization", b"content-encoding", b"idempotency-key", b"last-event-id"})
"""Headers with one value."""

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'\s*;\s*(?:({_NAME})\s*=\s*({_NAME}|"(?:[^"\\]|\\.)*"))?')
_TYPE = re.compile(rf"\s*({_NAME}/{_NAME})")


def combined(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by name; repeated headers become one list (RFC 9110 section 5.3; cookies: RFC 9113 8.2.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name in headers:
            value = headers[name] + ("; " if name == "cookie" else ", ") + value
        headers[name] = value
    return headers


def check_single(raw: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise InvalidRequest if a header of `SINGLE` is repeated: a proxy and this server could read different ones."""
    found = set()
    for name, _ in raw:
        if name in SINGLE:
            if name in found:
                raise InvalidRequest(f"The header {name.decode()} is repeated: send it once")
            found.add(name)


def parse_media_type(lines: Iterable[str]) -> str | None:
    """Return the media type of Content-Type headers in lower case (RFC 9110 section 8.3.1).

    None if it is malformed, if its charset is not UTF-8, or if two headers differ. Other parameters are ignored.
    """
    found = {_media_type(line) for line in lines}
    return found.pop() if len(found) == 1 else None


def _media_type(text: str) -> str | None:
    match = _TYPE.match(text)
    if match is None:
        return None
    end, charset = match.end(), "utf-8"
    while (parameter := _PARAMETER.match(text, end)) is not None:
        end = parameter.end()
        if parameter[1] is not None and parameter[1].lower() == "charset":
            charset = parameter[2].strip('"').lower()
    is_complete = not text[end:].strip()
    return match[1].lower() if is_complete and charset in ("utf-8", "utf8") else None
