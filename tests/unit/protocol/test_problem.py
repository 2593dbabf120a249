"""Errors as problem details (RFC 9457): status, headers and body, and nothing about the server's inside."""

import json
from http import HTTPStatus
from typing import Any

import pytest
from tidewire.errors import (
    BadSignature,
    ContentTooLarge,
    EventRefused,
    Forbidden,
    InvalidRequest,
    MappingError,
    SubscriptionStopped,
    TidewireError,
    TooManyRequests,
    TransportRefused,
    Unauthorized,
    Unavailable,
    UnsupportedCoding,
)
from tidewire.protocol.headers import SECURITY
from tidewire.protocol.problem import from_error, problem

FIXED = {"content-type": "application/problem+json", "cache-control": "no-store", **SECURITY}
ERRORS = [("/id", "is wrong"), ("", "also")]
DETAILS = [{"pointer": "/id", "detail": "is wrong"}, {"pointer": "", "detail": "also"}]
BEARER = 'Bearer realm="tidewire"'


def test_a_problem_has_the_standard_members() -> None:
    """`about:blank` says that the title is the status's own (RFC 9457 section 4.2.1)."""
    made = problem(404, "There is nothing")
    assert (made.status, made.headers) == (404, FIXED)
    assert json.loads(made.body) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "There is nothing",
    }


def test_a_header_of_the_problem_is_added_or_replaces_one() -> None:
    made = problem(405, "d", headers={"allow": "GET", "cache-control": "no-cache"})
    assert made.headers == {**FIXED, "allow": "GET", "cache-control": "no-cache"}


CASES: list[tuple[TidewireError, int, dict[str, Any], dict[str, str]]] = [
    (ContentTooLarge("d", ERRORS), 413, {"errors": DETAILS}, {}),
    (UnsupportedCoding("d", ERRORS), 415, {}, {"accept-encoding": "gzip"}),
    (MappingError("d", ERRORS), 422, {"errors": DETAILS}, {}),
    (EventRefused("d", ERRORS), 422, {"errors": DETAILS}, {}),
    (InvalidRequest("d", ERRORS), 400, {"errors": DETAILS}, {}),
    (InvalidRequest("d"), 400, {}, {}),
    (BadSignature("d"), 401, {}, {"www-authenticate": 'Signature realm="tidewire"'}),
    (Unauthorized("d", None), 401, {}, {"www-authenticate": BEARER}),
    (Unauthorized("d"), 401, {}, {"www-authenticate": f'{BEARER}, error="invalid_token"'}),
    (
        Unauthorized("d", retry_after=7),
        401,
        {},
        {"www-authenticate": f'{BEARER}, error="invalid_token"', "retry-after": "7"},
    ),
    (Forbidden("d"), 403, {}, {"www-authenticate": f'{BEARER}, error="insufficient_scope"'}),
    (TooManyRequests("d", "publish-rate", 3), 429, {"limit": "publish-rate"}, {"retry-after": "3"}),
    (Unavailable("d", 5, ERRORS), 503, {"errors": DETAILS}, {"retry-after": "5"}),
    (TransportRefused("d"), 503, {}, {"retry-after": "1"}),
]


@pytest.mark.parametrize(("error", "status", "members", "headers"), CASES, ids=range(len(CASES)))
def test_each_error_has_its_response(
    error: TidewireError, status: int, members: dict[str, Any], headers: dict[str, str]
) -> None:
    """Status, challenge and delay; the members beside the standard ones only if there is something in them."""
    made = from_error(error)
    assert (made.status, made.headers) == (status, {**FIXED, **headers})
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": "d"}
    assert json.loads(made.body) == {**content, **members}


@pytest.mark.parametrize("error", [SubscriptionStopped("secret"), TidewireError("secret")], ids=repr)
def test_an_unexpected_error_is_a_500_without_its_text(error: TidewireError) -> None:
    made = from_error(error)
    assert (made.status, made.headers) == (500, FIXED)
    assert json.loads(made.body)["detail"] == "The server failed; see the server's log"
