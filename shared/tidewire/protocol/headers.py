"""What every answer tells a browser, whatever it is an answer to (OWASP REST Security Cheat Sheet, "Security headers").

What only the front can promise, that all is encrypted (Strict-Transport-Security), is the front's to say.
"""

from collections.abc import Iterable

from tidewire.errors import InvalidRequest

SECURITY = {
    "x-content-type-options": "nosniff",  # JSON is no script, however it is asked for
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",  # nothing of ours is a page
    "referrer-policy": "no-referrer",  # a URL may hold a ticket
    "cross-origin-resource-policy": "same-origin",  # an allowed origin asks with CORS, and is not held up by this
}

SINGLE = frozenset({b"authorization", b"content-encoding", b"idempotency-key", b"last-event-id"})


def combined(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by name; lines of one name are one list (RFC 9110 section 5.3; of cookies, RFC 9113 8.2.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name in headers:
            value = headers[name] + ("; " if name == "cookie" else ", ") + value
        headers[name] = value
    return headers


def check_single(raw: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise InvalidRequest where a header that has one value stands twice: proxies and we could read different ones."""
    found = set()
    for name, _ in raw:
        if name in SINGLE:
            if name in found:
                raise InvalidRequest(f"The header {name.decode()} stands twice: send it once")
            found.add(name)
