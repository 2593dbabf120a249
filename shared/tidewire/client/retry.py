"""When to reconnect and when to renew a token, as pure functions. All times in seconds."""

import base64
import binascii
import json
import random
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

BACKOFF_BASE = 1.0  # the first limit; it doubles with each consecutive failure
BACKOFF_CAP = 30.0
MAX_DELAY = 3_600.0  # a longer Retry-After is a mistake
CLOSING_JITTER = 0.4  # all streams of a draining instance end at the same moment

MIN_TOKEN_USE = 5.0  # a wrong clock must not cause a loop of renewals
RENEW_BEFORE = 60.0  # before the expiry, but at most a fifth of the remaining life


def backoff(failures: int, floor: float, draw: Callable[[], float] = random.random) -> float:
    """Return the delay: `floor`, which the server requested, plus exponential backoff with full jitter.

    Full jitter, from 0 to the limit, spreads clients that lost the server at the same moment.
    """
    limit = min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(failures, 16))
    return min(MAX_DELAY, max(0.0, floor) + draw() * limit)


def retry_after(value: str | None, now: float) -> float:
    """Return the delay of a Retry-After header, 0 if it is missing or malformed (RFC 9110 section 10.2.3)."""
    text = (value or "").strip()
    try:
        seconds = float(text) if text.isascii() and text.isdigit() else parsedate_to_datetime(text).timestamp() - now
    except (ValueError, OverflowError):
        return 0.0
    return min(MAX_DELAY, max(0.0, seconds))


def claims_of(token: str) -> Mapping[str, object]:
    """Return the claims of a JWT without verifying it, empty if the token is not a JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def expiry_of(token: str) -> float | None:
    """Return a JWT's `exp` (s since 1970), None if it has none or is not a JWT."""
    expiry = claims_of(token).get("exp")
    return float(expiry) if isinstance(expiry, int | float) and 0 < expiry < 2**53 else None


def renew_in(expiry: float | None, now: float) -> float | None:
    """Return the delay before fetching the next token, None to keep this one.

    For an expiry in the past it is None: the server decides, because this clock may be wrong.
    """
    if expiry is None or expiry <= now:
        return None
    rest = expiry - now
    keep = max(MIN_TOKEN_USE, rest - min(RENEW_BEFORE, rest / 5))
    return keep if keep < rest else None
