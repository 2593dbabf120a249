"""`reachability`, `health`, `clock` and `metrics`: whether Tidewire responds, and in which state."""

import ssl
import time
from email.utils import parsedate_to_datetime

import httpx
import msgspec

from tidewire.client.responses import detail_of
from tidewire.tools.doctor.deployment import Deployment
from tidewire.tools.doctor.findings import Finding, Measured, fail, milliseconds, ok, public, skip, warn
from tidewire.tools.doctor.streams import now

LIVE, READY, DESCRIPTION, METRICS = "/api/health/live", "/api/health/ready", "/api/openapi.json", "/api/metrics"
RENEW_DAYS = 14  # remaining validity of a certificate; automatic renewal begins at 30

DATE_AGE = 2.0  # maximum age of a Date header in seconds: it has whole seconds, and servers update it once per second
WARN_SECONDS = 2.0
FAIL_SECONDS = 30.0  # half the lifetime of a ticket


class _Info(msgspec.Struct):
    title: str = ""
    version: str = ""


class _Description(msgspec.Struct):
    info: _Info


class _Health(msgspec.Struct):
    status: str = ""
    transport: str = ""
    reasons: list[str] = []
    outbox: int = 0


async def reachability(deployment: Deployment) -> Finding:
    """Request the liveness endpoint, or the OpenAPI document if a proxy hides the former."""
    response = await deployment.request("GET", LIVE)
    measured: dict[str, Measured] = {"http": response.http_version}
    if response.is_redirect:
        target = response.next_request.url if response.next_request is not None else None
        where = "" if target is None else f" to {public(target.copy_with(path='/'))}"
        return fail(
            f"the address redirects{where}", "Use the address it redirects to: a POST does not follow it", **measured
        )
    days = _certificate_days(response)
    if days is not None:
        measured["certificateDays"] = days
    began = now()  # of the second request: the first includes DNS, the connection and a cold start
    description = await deployment.request("GET", DESCRIPTION)
    measured["answerMs"] = milliseconds(now() - began)
    version = _version(description)
    is_live = response.status_code == 200 and _health(response).status == "live"
    if not is_live and version is None:
        found = f"{LIVE} returns {response.status_code}, {response.headers.get('content-type', 'of no type')}"
        return fail(
            f"the server is not Tidewire: {found}",
            "Check that --url is the deployment's own address, and that the proxy in front routes /api/ to the"
            " functions",
            **measured,
        )
    if not is_live:
        deployment.alive_path = DESCRIPTION
    measured["version"] = version or "unknown"
    summary = f"version {measured['version']}, {response.http_version}, {measured['answerMs']:g} ms"
    if days is not None and days < RENEW_DAYS:
        return warn(
            f"{summary}; the certificate expires in {days} days",
            "Renew it, or find out why automatic renewal failed",
            **measured,
        )
    return ok(summary, **measured)


async def health(deployment: Deployment) -> Finding:
    """Request readiness: the log responds and the tail runs."""
    response = await deployment.request("GET", READY)
    if response.status_code in (401, 403, 404):
        return skip(f"{READY} is not public: {response.status_code}", "Request it from the inside")
    if response.status_code != 200:
        return fail(await detail_of(response), "Check the store, and the log of the process (docs/operate/README.md)")
    state = _health(response)
    if state.status == "degraded":
        advice = "Check the store: new events are only in one process's memory (docs/transports.md, Memory fallback)"
        return warn(f"degraded: {'; '.join(state.reasons)}", advice, transport=state.transport, outbox=state.outbox)
    if state.transport == "memory" and not deployment.is_local:
        return warn(
            "the log is in one process's memory: it ends with the process, and other instances do not share it",
            "Set REALTIME_TRANSPORT to redis or postgres (docs/transports.md)",
            transport=state.transport,
        )
    return ok(f"ready, transport {state.transport}", transport=state.transport)


async def clock(deployment: Deployment) -> Finding:
    """Compare the Date header with this machine's clock before and after the request."""
    before = time.time()
    response = await deployment.request("GET", deployment.alive_path)
    after = time.time()
    try:
        date = parsedate_to_datetime(response.headers.get("date", "")).timestamp()
    except ValueError:
        return skip("the responses have no Date header")
    skew = _skew(date, before, after)
    if abs(skew) < WARN_SECONDS:
        return ok("the clocks agree, with a precision of one second", skewSeconds=round(skew, 1))
    advice = (
        "Synchronize both clocks by NTP. With a wrong clock, tokens are early or expired (REALTIME_JWT_LEEWAY allows"
        " for some), tickets, valid for 60 s, fail, and webhooks are refused from 5 min (docs/webhooks.md)"
    )
    difference = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    verdict = fail if abs(skew) >= FAIL_SECONDS else warn
    return verdict(f"the server's clock is {difference}", advice, skewSeconds=round(skew, 1))


async def metrics(deployment: Deployment) -> Finding:
    """Request the metrics, which should not be public."""
    response = await deployment.request("GET", METRICS)
    if response.status_code != 200 or not response.headers.get("content-type", "").startswith("text/plain"):
        return skip(f"{METRICS} is not public: {response.status_code}")
    series = sum(bool(line) and not line.startswith("#") for line in response.text.splitlines())
    if deployment.is_local:
        return ok(f"{series} series", series=series)
    advice = f"Block {METRICS} at your proxy (docs/operate/README.md)"
    return warn("the metrics are public", advice, series=series)


def _skew(date: float, before: float, after: float) -> float:
    """Return the minimum difference of the server's clock in seconds, positive if ahead; 0 if they may agree."""
    minimum, maximum = date - after, date + DATE_AGE - before
    if minimum > 0:
        return minimum
    return min(maximum, 0.0)


def _health(response: httpx.Response) -> _Health:
    try:
        return msgspec.json.decode(response.content, type=_Health)
    except msgspec.DecodeError:
        return _Health()


def _version(response: httpx.Response) -> str | None:
    try:
        info = msgspec.json.decode(response.content, type=_Description).info
    except msgspec.DecodeError:
        return None
    return info.version if "tidewire" in info.title.lower() else None


def _certificate_days(response: httpx.Response) -> int | None:
    """Return the remaining validity of the server's certificate in days, None without TLS."""
    tls = response.extensions["network_stream"].get_extra_info("ssl_object")
    certificate = tls.getpeercert() if tls is not None else None
    if not certificate:
        return None
    return int((ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) // 86_400)
