"""When to come back, and when to fetch a new token. Pure: clock and dice are arguments. Seconds throughout."""

import base64
import binascii
import json
import random
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

BACKOFF_BASE = 1.0  # the first ceiling; it doubles with each failure in a row
BACKOFF_CAP = 30.0  # a server that is back is found within half a minute
LONGEST_WAIT = 3_600.0  # a Retry-After of next year is a mistake, not a wish
CLOSING_JITTER = 0.4  # all streams of an instance that drains end in the same moment

LEAST_TOKEN_LIFE = 5.0  # a wrong clock must not turn into a loop of renewals
RENEW_BEFORE = 60.0  # at most; a fifth of a short token's life


def backoff(failures: int, floor: float, draw: Callable[[], float] = random.random) -> float:
    """Return the wait: what the server asked for, plus exponential backoff with full jitter.

    Full jitter, from 0 to the ceiling, keeps a crowd that was cut together from coming back together.
    """
    ceiling = min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(failures, 16))
    return min(LONGEST_WAIT, max(0.0, floor) + draw() * ceiling)


def retry_after(value: str | None, now: float) -> float:
    """Return what a Retry-After header asks for, 0 where it is absent or cannot be read (RFC 9110 section 10.2.3)."""
    text = (value or "").strip()
    try:
        seconds = float(text) if text.isascii() and text.isdigit() else parsedate_to_datetime(text).timestamp() - now
    except (ValueError, OverflowError):
        return 0.0
    return min(LONGEST_WAIT, max(0.0, seconds))


def claims_of(token: str) -> Mapping[str, object]:
    """Return what a JWT says, nothing where it is none. Nothing is verified: that is the server's."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def expiry_of(token: str) -> float | None:
    """Return a JWT's `exp` (s since 1970), None where it has none or is no JWT: when to fetch the next one."""
    expiry = claims_of(token).get("exp")
    return float(expiry) if isinstance(expiry, int | float) and 0 < expiry < 2**53 else None


def renew_in(expiry: float | None, now: float) -> float | None:
    """Return how long to keep a token before the next one is fetched, None where none should be.

    An expiry that is past is left to the server to notice: this clock may be the one that is wrong.
    """
    if expiry is None or expiry <= now:
        return None
    rest = expiry - now
    keep = max(LEAST_TOKEN_LIFE, rest - min(RENEW_BEFORE, rest / 5))
    return keep if keep < rest else None
