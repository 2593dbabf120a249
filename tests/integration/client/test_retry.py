"""Delays and token renewal as pure functions."""

import base64
import json
from typing import Any

import pytest
from tidewire.client.retry import BACKOFF_CAP, MAX_DELAY, backoff, expiry_of, renew_in, retry_after

NOW = 1_790_000_000.0


def jwt(claims: Any) -> str:
    """A text in the form of a token."""
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.x"


def test_the_delay_limit_doubles_up_to_a_cap() -> None:
    """The delay is random between 0 and the limit."""
    assert [backoff(n, 0, lambda: 1.0) for n in (0, 1, 2, 4, 5, 6, 60)] == [
        1,
        2,
        4,
        16,
        BACKOFF_CAP,
        BACKOFF_CAP,
        BACKOFF_CAP,
    ]
    assert backoff(6, 0, lambda: 0.0) == 0, "full jitter: a crowd that was cut together spreads over the whole time"
    assert backoff(0, 7, lambda: 0.5) == 7.5, "the server's delay is the minimum"
    assert backoff(60, 10 * MAX_DELAY, lambda: 1.0) == MAX_DELAY


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0),
        ("7", 7),
        (" 7 ", 7),
        ("Mon, 21 Sep 2026 14:13:30 GMT", 10),
        ("Mon, 21 Sep 2026 14:13:10 GMT", 0),
        ("Fri, 01 Jan 2099 00:00:00 GMT", MAX_DELAY),
        ("9" * 5_000, MAX_DELAY),
        ("-1", 0),
        ("soon", 0),
        ("\u0661", 0),  # a digit, but none of HTTP's
    ],
)
def test_retry_after_is_seconds_or_a_date_and_nothing_else(value: str | None, seconds: float) -> None:
    assert retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "token", ["", "a.b", "a.!.c", "a.e30.c", jwt([]), jwt({"exp": "1"}), jwt({"exp": True}), jwt({"exp": 1e300})]
)
def test_a_token_whose_end_cannot_be_read_is_left_to_the_server(token: str) -> None:
    assert expiry_of(token) in (None, True)
    assert renew_in(None, NOW) is None


@pytest.mark.parametrize(
    ("life", "kept"),
    [(3_600, 3_540), (100, 80), (6, 5), (5, None), (1, None), (0, None), (-60, None)],
)
def test_a_token_is_renewed_in_time_but_never_in_a_loop(life: float, kept: float | None) -> None:
    assert renew_in(expiry_of(jwt({"exp": NOW + life})), NOW) == kept
