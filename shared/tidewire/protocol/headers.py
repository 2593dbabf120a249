"""HTTP headers: the security and CORS headers of responses, and the parsing of request headers."""

import re
from collections.abc import Iterable, Mapping

from tidewire.errors import InvalidRequest, Unauthorized

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
    end = match.end()
    while (parameter := _PARAMETER.match(text, end)) is not None:
        end = parameter.end()
        name, value = (part.lower() for part in parameter.groups(""))
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8"):
            return None
    return None if text[end:].strip() else match[1].lower()


def encode(*headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers in ASGI's form."""
    return [(name.encode(), value.encode("latin-1")) for group in headers for name, value in group.items()]


def bearer(headers: Mapping[str, str]) -> str | None:
    """Return the token of the Authorization header (RFC 6750), None without that header.

    Raises Unauthorized if the header uses another scheme.
    """
    value = headers.get("authorization")
    if value is None:
        return None
    scheme, _, token = value.strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("Use the Bearer scheme: Authorization: Bearer <token>", None)
    return token.strip()


# CORS (Fetch Standard, "CORS protocol"): exact origins, never a pattern, never `*`.

METHODS = "GET, POST, OPTIONS"
REQUEST_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
EXPOSED_HEADERS = "Retry-After, WWW-Authenticate, X-Request-Id"
MAX_REQUEST_HEADERS = 4_096  # characters of a preflight's list that the answer repeats
MAX_AGE = "7200"  # seconds; Chromium caps the value there


def cors_headers(origin: str | None, allowed: frozenset[str]) -> dict[str, str]:
    """Return the headers that allow pages of `origin` to read the response.

    Credentials are allowed because the token may be a cookie; that is safe only with an exact origin.
    """
    if not allowed:
        return {}
    if origin is None or origin not in allowed:
        return {"vary": "Origin"}
    return {
        "vary": "Origin",
        "access-control-allow-origin": origin,
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": EXPOSED_HEADERS,
    }


def preflight_headers(headers: Mapping[str, str], allowed: frozenset[str]) -> dict[str, str] | None:
    """Return the headers that answer a preflight, None if its origin is not allowed.

    An allowed origin may send any header: tracing and error-reporting tools add their own (traceparent, baggage,
    sentry-trace, x-datadog-…) to each request of a page, and a header that is not allowed blocks the request.
    """
    origin = headers.get("origin")
    if origin is None or origin not in allowed:
        return None
    wanted = headers.get("access-control-request-headers", "")
    is_list = len(wanted) <= MAX_REQUEST_HEADERS and _NAMES.fullmatch(wanted) is not None
    return {
        **cors_headers(origin, allowed),
        "vary": "Origin, Access-Control-Request-Headers",
        "access-control-allow-methods": METHODS,
        "access-control-allow-headers": wanted if is_list else REQUEST_HEADERS,
        "access-control-max-age": MAX_AGE,
    }


_NAMES = re.compile(rf"{_NAME}(?: ?, ?{_NAME})*")
