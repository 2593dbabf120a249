"""`reachability`, `health` and `metrics`: whether something answers, and whether it is Tidewire, and well."""

import ssl
import time

import httpx
import msgspec

from tidewire.client.answers import detail_of
from tidewire.tools.doctor.deployment import Deployment
from tidewire.tools.doctor.faults import place
from tidewire.tools.doctor.findings import Finding, Measured, fail, milliseconds, ok, skip, warn
from tidewire.tools.doctor.streams import now

LIVE, READY, DESCRIPTION, METRICS = "/api/health/live", "/api/health/ready", "/api/openapi.json", "/api/metrics"
RENEW_DAYS = 14  # left of a certificate; automatic renewal begins at 30


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
    """Ask for the process's health, and for its description where a front keeps the first one to itself."""
    response = await deployment.ask("GET", LIVE)
    measured: dict[str, Measured] = {"http": response.http_version}
    if response.is_redirect:
        target = response.next_request.url if response.next_request is not None else None
        where = "" if target is None else f" to {place(target.copy_with(path='/'))}"
        return fail(
            f"the address redirects{where}", "Give the address that it leads to: a POST does not follow", **measured
        )
    days = _certificate_days(response)
    if days is not None:
        measured["certificateDays"] = days
    began = (
        now()
    )  # of the second answer: the first one had a name to look up, a connection to open, a function to start
    described = await deployment.ask("GET", DESCRIPTION)
    measured["answerMs"] = milliseconds(now() - began)
    version = _version(described)
    is_live = response.status_code == 200 and _health(response).status == "live"
    if not is_live and version is None:
        found = f"{LIVE} answers {response.status_code}, {response.headers.get('content-type', 'of no type')}"
        return fail(
            f"what answers is not Tidewire: {found}",
            "See that --url is the deployment's own address, and that what is in front leads /api/ to the functions",
            **measured,
        )
    if not is_live:
        deployment.alive_path = DESCRIPTION
    measured["version"] = version or "unknown"
    told = f"version {measured['version']}, {response.http_version}, {measured['answerMs']:g} ms"
    if days is not None and days < RENEW_DAYS:
        return warn(
            f"{told}; the certificate ends in {days} days",
            "Renew it, or see why that does not happen by itself",
            **measured,
        )
    return ok(told, **measured)


async def health(deployment: Deployment) -> Finding:
    """Ask whether the transport answers and the tail runs."""
    response = await deployment.ask("GET", READY)
    if response.status_code in (401, 403, 404):
        return skip(f"{READY} is not open to the outside: {response.status_code}", "Ask it from within")
    if response.status_code != 200:
        return fail(await detail_of(response), "See the store, and the log of the process (docs/operate/README.md)")
    told = _health(response)
    if told.status == "degraded":
        advice = (
            "See the store: what is taken now is in one process's memory (docs/transports.md, The fallback to memory)"
        )
        return warn(f"degraded: {'; '.join(told.reasons)}", advice, transport=told.transport, outbox=told.outbox)
    if told.transport == "memory" and not deployment.is_local:
        return warn(
            "the log is in one process's memory: it ends with it, and no other instance shares it",
            "Set REALTIME_TRANSPORT to redis or postgres (docs/transports.md)",
            transport=told.transport,
        )
    return ok(f"ready, transport {told.transport}", transport=told.transport)


async def metrics(deployment: Deployment) -> Finding:
    """Ask for the metrics, which are not for everyone."""
    response = await deployment.ask("GET", METRICS)
    if response.status_code != 200 or not response.headers.get("content-type", "").startswith("text/plain"):
        return skip(f"{METRICS} is not open to the outside: {response.status_code}")
    series = sum(bool(line) and not line.startswith("#") for line in response.text.splitlines())
    if deployment.is_local:
        return ok(f"{series} series", series=series)
    advice = f"Keep {METRICS} away from the public at your proxy (docs/operate/README.md)"
    return warn("everyone can read the metrics", advice, series=series)


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
    """Return how many days the certificate still holds, None without one."""
    tls = response.extensions["network_stream"].get_extra_info("ssl_object")
    certificate = tls.getpeercert() if tls is not None else None
    if not certificate:
        return None
    return int((ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) // 86_400)
