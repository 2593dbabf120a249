"""Headers of requests, parsed as RFC 9110 and RFC 6750 say; CORS headers by the Fetch Standard."""

import pytest
from tidewire.errors import InvalidRequest, Unauthorized
from tidewire.protocol.headers import (
    MAX_REQUEST_HEADERS,
    REQUEST_HEADERS,
    SECURITY,
    SINGLE,
    bearer,
    check_single,
    combined,
    cors_headers,
    parse_media_type,
    preflight_headers,
)

ORIGIN = "https://app.example.com"
ALLOWED = frozenset({ORIGIN, "http://localhost:3000"})
STRANGERS = [
    "https://evil.example",
    "http://app.example.com",
    "https://app.example.com:443",
    "https://app.example.com.evil.example",
    "https://evil-app.example.com",
    "https://x.app.example.com",
    "https://APP.example.com",
    f"{ORIGIN}/",
    f"{ORIGIN}, https://evil.example",
    "null",
    "*",
    "",
    None,
]


def test_repeated_headers_become_one_list() -> None:
    """Also headers with bytes beyond ASCII; cookies have another separator (RFC 9113 section 8.2.3)."""
    raw = [(b"accept", b"a"), (b"cookie", b"x=1"), (b"accept", b"b"), (b"x-name", b"\xfc"), (b"cookie", b"y=2")]
    assert combined([*raw, (b"accept", b"c")]) == {"accept": "a, b, c", "cookie": "x=1; y=2", "x-name": "ü"}
    assert combined([]) == {}


@pytest.mark.parametrize("name", sorted(SINGLE))
def test_a_header_with_one_value_must_not_be_repeated(name: bytes) -> None:
    """A proxy could read the first value, and this server the last one."""
    once = [(b"accept", b"a"), *((single, b"a") for single in sorted(SINGLE)), (b"accept", b"b")]
    check_single(once)
    with pytest.raises(InvalidRequest, match=f"^The header {name.decode()} is repeated: send it once$"):
        check_single([*once, (name, b"a")])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("application/json", "application/json"),
        (" application/json\t", "application/json"),
        ("Application/JSON ; Charset=UTF-8", "application/json"),
        ('application/json; charset="UTF-8"', "application/json"),
        ("application/json; charset=utf8", "application/json"),
        ("application/json;", "application/json"),
        ("application/json;;; a=b", "application/json"),
        ("application/vnd.a+json; odata.metadata=minimal", "application/vnd.a+json"),
        (r'a/b; profile="https://a.example/p;q,r \" s"; charset=utf-8', "a/b"),
        ("application/json; charset=latin1", None),
        ('application/json; charset="utf-16"', None),
        ("application/json; CHARSET=utf-16", None),
        ("application/json; charset=utf-8; charset=utf-16", None),
        ("application/json; charset=utf-16; charset=utf-8", None),
        ("application/json; profile=a; charset=latin1", None),
        ("application/json; charset=", None),
        ("application/json; charset=utf-8 x", None),
        ("application/json, text/plain", None),
        ("application/json charset=utf-8", None),
        ('application/json; a="', None),
        ("application/", None),
        ("json", None),
        (";charset=utf-8", None),
        ("", None),
    ],
)
def test_a_media_type_is_read_without_its_parameters(text: str, expected: str | None) -> None:
    """Any charset that is not UTF-8 makes the body unreadable; other parameters do not matter."""
    assert parse_media_type([text]) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], None),
        (["application/json", "Application/JSON; charset=utf-8"], "application/json"),
        (["application/json", "text/plain"], None),
        (["application/json", "application/json; charset=latin1"], None),
    ],
)
def test_two_media_types_must_be_equal(lines: list[str], expected: str | None) -> None:
    """A proxy that adds a Content-Type may leave the first one in place."""
    assert parse_media_type(lines) == expected


@pytest.mark.parametrize("value", ["Bearer abc", "bearer abc", "BEARER  abc ", " Bearer abc", "Bearer \tabc\t"])
def test_a_bearer_token_is_read_from_its_header(value: str) -> None:
    """The scheme has no case (RFC 9110 section 11.1)."""
    assert bearer({"authorization": value}) == "abc"


def test_a_token_may_hold_spaces_only_inside() -> None:
    """It is checked later, as a whole."""
    assert bearer({"authorization": "Bearer a b"}) == "a b"


def test_no_authorization_is_no_token() -> None:
    assert bearer({}) is None


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic abc", "abc", "Bearer:abc"])
def test_another_scheme_is_refused_without_an_error_code(value: str) -> None:
    """RFC 6750 section 3.1: the request has no bearer credential that could be invalid."""
    with pytest.raises(Unauthorized) as refused:
        bearer({"authorization": value})
    assert str(refused.value) == "Use the Bearer scheme: Authorization: Bearer <token>"
    assert refused.value.code is None


def test_an_allowed_origin_may_read_the_response() -> None:
    assert cors_headers(ORIGIN, ALLOWED) == {
        "vary": "Origin",
        "access-control-allow-origin": ORIGIN,
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": "Retry-After, WWW-Authenticate, X-Request-Id",
    }


@pytest.mark.parametrize("origin", STRANGERS)
def test_another_origin_is_granted_nothing(origin: str | None) -> None:
    """`Vary` keeps its response apart in a shared cache."""
    assert cors_headers(origin, ALLOWED) == {"vary": "Origin"}
    assert preflight_headers({} if origin is None else {"origin": origin}, ALLOWED) is None


@pytest.mark.parametrize("origin", [ORIGIN, None])
def test_no_response_varies_if_no_origin_is_allowed(origin: str | None) -> None:
    assert cors_headers(origin, frozenset()) == {}


LONGEST = "x-" + "a" * (MAX_REQUEST_HEADERS - 2)


@pytest.mark.parametrize(
    ("wanted", "allowed"),
    [
        ("authorization", "authorization"),
        ("authorization,baggage,sentry-trace , x-request-id", "authorization,baggage,sentry-trace , x-request-id"),
        ("last-event-id, x-datadog-origin", "last-event-id, x-datadog-origin"),
        (LONGEST, LONGEST),
        (LONGEST + "a", REQUEST_HEADERS),
        (None, REQUEST_HEADERS),
        ("", REQUEST_HEADERS),
        ("x-aé", REQUEST_HEADERS),
        ("a b", REQUEST_HEADERS),
        ("a,,b", REQUEST_HEADERS),
        ("a\r\nb", REQUEST_HEADERS),
    ],
)
def test_a_preflight_allows_the_headers_that_it_names(wanted: str | None, allowed: str) -> None:
    """Only a list of names is repeated, and only a short one: the value comes from the request."""
    asked = {"origin": ORIGIN} | ({} if wanted is None else {"access-control-request-headers": wanted})
    assert preflight_headers(asked, ALLOWED) == {
        "vary": "Origin, Access-Control-Request-Headers",
        "access-control-allow-origin": ORIGIN,
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": "Retry-After, WWW-Authenticate, X-Request-Id",
        "access-control-allow-methods": "GET, POST, OPTIONS",
        "access-control-allow-headers": allowed,
        "access-control-max-age": "7200",
    }


def test_the_security_headers_are_those_of_the_documentation() -> None:
    """docs/protocol.md, "Response headers"."""
    assert SECURITY == {
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
    }
