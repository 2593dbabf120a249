"""Cross-origin requests: exact origins, never a pattern, never `*` (Fetch Standard, CORS protocol)."""

from collections.abc import Mapping

METHODS = "GET, POST, OPTIONS"
REQUEST_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
EXPOSED_HEADERS = "Retry-After, WWW-Authenticate, X-Request-Id"
MAX_AGE = "7200"  # seconds; what Chromium takes at most


def cors_headers(origin: str | None, allowed: frozenset[str]) -> dict[str, str]:
    """Return the headers that let `origin` read the answer; without them a browser keeps it from the page.

    Credentials are allowed because the token may be a cookie; that is safe only with an exact origin.
    """
    if not allowed:
        return {}
    if origin not in allowed or origin is None:
        return {"vary": "Origin"}
    return {
        "vary": "Origin",
        "access-control-allow-origin": origin,
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": EXPOSED_HEADERS,
    }


def preflight_headers(headers: Mapping[str, str], allowed: frozenset[str]) -> dict[str, str] | None:
    """Return the answer to a preflight; None where the origin is not allowed to ask."""
    origin = headers.get("origin")
    if origin is None or origin not in allowed:
        return None
    return {
        **cors_headers(origin, allowed),
        "access-control-allow-methods": METHODS,
        "access-control-allow-headers": REQUEST_HEADERS,
        "access-control-max-age": MAX_AGE,
    }
