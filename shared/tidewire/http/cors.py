"""Cross-origin requests: exact origins, never a pattern, never `*` (Fetch Standard, CORS protocol)."""

import re
from collections.abc import Mapping

METHODS = "GET, POST, OPTIONS"
REQUEST_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
EXPOSED_HEADERS = "Retry-After, WWW-Authenticate, X-Request-Id"
MAX_REQUEST_HEADERS = 4_096  # characters; an answer repeats no more than that
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
    """Return the answer to a preflight; None where the origin is not allowed to ask.

    An origin that is listed may send any header: tools for tracing and errors add their own (traceparent, baggage,
    sentry-trace, x-datadog-…) to each request of a page, and one that is not allowed blocks the request.
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


_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_NAMES = re.compile(rf"{_NAME}(?: ?, ?{_NAME})*")
