"""`clock`: the deployment's clock against this one's."""

import time
from email.utils import parsedate_to_datetime

from tidewire.tools.doctor.deployment import Deployment
from tidewire.tools.doctor.findings import Finding, fail, ok, skip, warn

DATE_AGE = 2.0  # seconds that a Date header may be old: it has none smaller, and servers make one a second
WARN_SECONDS = 2.0
FAIL_SECONDS = 30.0  # half a ticket's minute


async def clock(deployment: Deployment) -> Finding:
    """Compare the Date header with the moments before and after; only what neither can explain is skew."""
    before = time.time()
    response = await deployment.ask("GET", deployment.alive_path)
    after = time.time()
    try:
        date = parsedate_to_datetime(response.headers.get("date", "")).timestamp()
    except ValueError:
        return skip("the answers have no Date header")
    skew = _skew(date, before, after)
    told = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    if abs(skew) < WARN_SECONDS:
        return ok("the clocks agree within the second that can be told", skewSeconds=round(skew, 1))
    advice = (
        "One of the two is wrong: have it set by NTP. By it, tokens are not valid yet or expired (REALTIME_JWT_LEEWAY"
        " widens their times), tickets hold for 60 s, and webhooks are refused from 5 min on (docs/webhooks.md)"
    )
    tell = fail if abs(skew) >= FAIL_SECONDS else warn
    return tell(f"the server's clock is {told}", advice, skewSeconds=round(skew, 1))


def _skew(date: float, before: float, after: float) -> float:
    """Return how far the server's clock is ahead at least; 0 where the two may be the same."""
    minimum, maximum = date - after, date + DATE_AGE - before
    if minimum > 0:
        return minimum
    return min(maximum, 0.0)
