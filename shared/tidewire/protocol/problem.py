"""Errors as HTTP responses: RFC 9457 problem details."""

from collections.abc import Mapping
from http import HTTPStatus

import msgspec

from tidewire.errors import (
    BadSignature,
    ContentTooLarge,
    EventRefused,
    Forbidden,
    InvalidRequest,
    MappingError,
    TidewireError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnsupportedCoding,
)
from tidewire.protocol.headers import SECURITY

MEDIA_TYPE = "application/problem+json"


class Problem(msgspec.Struct, frozen=True):
    """An error response: status, headers and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def problem(
    status: int,
    detail: str,
    errors: tuple[tuple[str, str], ...] = (),
    headers: Mapping[str, str] | None = None,
    limit: str | None = None,
) -> Problem:
    """Return the problem+json response; `errors` are (JSON pointer, problem), `limit` names the limit exceeded."""
    content: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors:
        content["errors"] = [{"pointer": pointer, "detail": what} for pointer, what in errors]
    if limit is not None:
        content["limit"] = limit
    fixed = {"content-type": MEDIA_TYPE, "cache-control": "no-store", **SECURITY}
    return Problem(status, {**fixed, **(headers or {})}, msgspec.json.encode(content))


def from_error(error: TidewireError) -> Problem:
    """Return the response for an error of the core; an unexpected one is a 500 without details."""
    match error:
        case ContentTooLarge():
            return problem(413, error.detail, error.errors)
        case UnsupportedCoding():
            return problem(415, error.detail, headers={"accept-encoding": "gzip"})
        case MappingError() | EventRefused():
            return problem(422, error.detail, error.errors)
        case InvalidRequest():
            return problem(400, error.detail, error.errors)
        case BadSignature():
            return problem(401, error.detail, headers={"www-authenticate": 'Signature realm="tidewire"'})
        case Unauthorized():
            # RFC 6750 section 3.1: no error code if the request carried no credential.
            code = f', error="{error.code}"' if error.code else ""
            wait = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
            return problem(401, error.detail, headers={"www-authenticate": f'Bearer realm="tidewire"{code}', **wait})
        case Forbidden():
            challenge = 'Bearer realm="tidewire", error="insufficient_scope"'
            return problem(403, error.detail, headers={"www-authenticate": challenge})
        case TooManyRequests():
            return problem(429, error.detail, headers={"retry-after": str(error.retry_after)}, limit=error.limit)
        case Unavailable():
            return problem(503, error.detail, error.errors, headers={"retry-after": str(error.retry_after)})
        case _:
            return problem(500, "The server failed; see the server's log")
