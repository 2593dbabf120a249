"""`page`: whether a web page finds and opens its stream as `realtime.js` does, under a browser's rules."""

import contextlib

import httpx
import msgspec

from tidewire.client.responses import detail_of
from tidewire.settings.endpoints import LOCAL
from tidewire.tools.doctor.cors import check_preflight, origin_of
from tidewire.tools.doctor.deployment import Deployment, bearer, refused
from tidewire.tools.doctor.findings import Decided, Finding, fail, ok, public, skip, unreachable
from tidewire.tools.doctor.streams import open_stream

CONFIG, EVENTS = "/api/config", "/api/events"
SET_URL = "Set REALTIME_STREAM_URL of the function for /api/config to the stream's https:// address (docs/deploy.md)"
ROUTE = (
    "Route GET /api/config to the functions and GET /api/events to the stream, or set REALTIME_STREAM_URL to the"
    " stream's own address (docs/deploy.md)"
)


class _Config(msgspec.Struct, rename="camel"):
    stream_url: str
    auth: str = ""


async def page(deployment: Deployment) -> Finding:
    """Find the stream URL, and open it with a token in a header, as a page of the origin."""
    if deployment.auth_required and deployment.subscriber is None:
        return skip("there is no subscriber token: see `token`")
    origin = deployment.origin or origin_of(deployment.url)
    stream, source = await _stream_url(deployment)
    where = public(stream)
    if stream.scheme == "http" and stream.host not in LOCAL and origin.startswith("https:"):
        return fail(f"{source} {where}: browsers do not open http:// from an https:// page", SET_URL, url=where)
    if origin == origin_of(deployment.url):
        policy = await _policy(deployment)
        if not allows(policy, origin, stream):
            advice = f"Add {origin_of(str(stream))} to connect-src of the page's Content-Security-Policy (netlify.toml)"
            return fail(f"{source} {where}, but the page's Content-Security-Policy blocks it", advice, url=where)
    if origin_of(str(stream)) != origin and (deployment.origin is None or str(stream) != deployment.stream_url):
        try:
            finding = await check_preflight(deployment, "GET", str(stream), origin)
        except Decided as decided:
            finding = decided.finding
        if finding.verdict != "ok":
            return msgspec.structs.replace(finding, reason=f"{source} {where}: {finding.reason}")
    return await _open(deployment, stream, origin, source)


async def _stream_url(deployment: Deployment) -> tuple[httpx.URL, str]:
    """Return the stream URL that a page uses, and its source in words. Raises Decided."""
    response = await deployment.request("GET", CONFIG, headers={"accept": "application/json"})
    if response.status_code >= 500 or response.status_code == 429:
        detail = await detail_of(response)
        raise Decided(fail(f"{CONFIG} fails: {detail}", "See the log of the function for /api/config"))
    try:
        config = msgspec.json.decode(response.content, type=_Config)
        return httpx.URL(deployment.url).join(config.stream_url), f"{CONFIG} names"
    except (msgspec.DecodeError, httpx.InvalidURL):
        # Like the clients: an older server, or a proxy that routes the events alone.
        return httpx.URL(deployment.url).join(EVENTS), f"{CONFIG} is {response.status_code}, so pages use"


async def _policy(deployment: Deployment) -> str:
    """Return the Content-Security-Policy of the site's own page, "" if it has none."""
    with contextlib.suppress(Decided):
        response = await deployment.request("GET", "/", headers={"accept": "text/html"})
        if response.is_success:
            return str(response.headers.get("content-security-policy", ""))
    return ""


def allows(policy: str, origin: str, url: httpx.URL) -> bool:
    """Whether a policy lets a page of the origin connect to a URL (CSP Level 3, "Matching source lists")."""
    directives = {words[0].lower(): words[1:] for part in policy.split(";") if (words := part.split())}
    sources = directives.get("connect-src", directives.get("default-src", ["*"]))
    return any(_matches(source, origin, url) for source in sources)


def _matches(source: str, origin: str, url: httpx.URL) -> bool:
    if source in ("*", f"{url.scheme}:"):
        return True
    if source == "'self'":
        return origin_of(str(url)) == origin
    scheme, separator, rest = source.rpartition("://")
    host = rest.split("/", 1)[0]
    if separator and scheme != url.scheme:
        return False
    if host.startswith("*."):
        return url.host.endswith(host[1:])
    return host in (url.netloc.decode("ascii"), url.host if url.port is None else "")


async def _open(deployment: Deployment, stream: httpx.URL, origin: str, source: str) -> Finding:
    where = public(stream)
    headers = {"origin": origin, **bearer(deployment.subscriber)}
    try:
        response = await open_stream(
            deployment.http, str(stream), deployment.subscription(), headers, deployment.limits.answer
        )
    except TimeoutError:
        return skip("not even the headers of the stream arrive: see `buffering`")
    except httpx.RequestError as error:
        finding = unreachable(stream, error)
        return fail(f"{source} {where}: {finding.reason}", f"{SET_URL}. {finding.advice}", url=where)
    async with contextlib.aclosing(response):
        kind = response.headers.get("content-type", "of no type")
        if response.status_code == 200 and kind.startswith("text/event-stream"):
            return ok(f"{source} {where}, which a page of {origin} can open", url=where)
        detail = kind if response.status_code == 200 else await detail_of(response)
    advice = refused(response.status_code) if response.status_code in (401, 403, 503) else ROUTE
    return fail(f"{source} {where}, but there is no stream: {detail}", advice, url=where)
