"""`page`: how a page of the site finds its stream and opens it, as `realtime.js` does and a browser lets it."""

import contextlib

import httpx
import msgspec

from tidewire.client.answers import detail_of
from tidewire.settings.endpoints import LOCAL
from tidewire.tools.doctor.cors import check_preflight, origin_of
from tidewire.tools.doctor.deployment import Deployment, bearer, refused
from tidewire.tools.doctor.faults import place, unreachable
from tidewire.tools.doctor.findings import Decided, Finding, fail, ok, skip
from tidewire.tools.doctor.streams import open_stream

CONFIG, EVENTS = "/api/config", "/api/events"
NAME_IT = "Set REALTIME_STREAM_URL of the function for /api/config to the streams' https:// address (docs/deploy.md)"
LEAD_THERE = (
    "Let GET /api/config through to the functions, and GET /api/events to the stream, or name its own address in"
    " REALTIME_STREAM_URL (docs/deploy.md)"
)


class _Config(msgspec.Struct, rename="camel"):
    stream_url: str
    auth: str = ""


async def page(deployment: Deployment) -> Finding:
    """Ask where the stream is, and open it with a token in a header, as a page of the origin."""
    if deployment.auth_required and deployment.subscriber is None:
        return skip("there is no subscriber token: see `token`")
    origin = deployment.origin or origin_of(deployment.url)
    stream, told = await _where(deployment)
    where = place(stream)
    if stream.scheme == "http" and stream.host not in LOCAL and origin.startswith("https:"):
        return fail(f"{told} {where}: no browser opens http:// from an https:// page", NAME_IT, url=where)
    if origin == origin_of(deployment.url):
        policy = await _policy(deployment)
        if not allows(policy, origin, stream):
            advice = f"Add {origin_of(str(stream))} to connect-src of the page's Content-Security-Policy (netlify.toml)"
            return fail(f"{told} {where}, and the page's own policy lets it connect nowhere there", advice, url=where)
    if origin_of(str(stream)) != origin and (deployment.origin is None or str(stream) != deployment.stream_url):
        try:
            found = await check_preflight(deployment, "GET", str(stream), origin)
        except Decided as decided:
            found = decided.finding
        if found.verdict != "ok":
            return msgspec.structs.replace(found, reason=f"{told} {where}: {found.reason}")
    return await _open(deployment, stream, origin, told)


async def _where(deployment: Deployment) -> tuple[httpx.URL, str]:
    """Return where a page takes the stream to be, and who says so. Raises Decided."""
    response = await deployment.ask("GET", CONFIG, headers={"accept": "application/json"})
    if response.status_code >= 500 or response.status_code == 429:
        detail = await detail_of(response)
        raise Decided(fail(f"{CONFIG} says nothing: {detail}", "See the log of the function for /api/config"))
    try:
        config = msgspec.json.decode(response.content, type=_Config)
        return httpx.URL(deployment.url).join(config.stream_url), f"{CONFIG} names"
    except (msgspec.DecodeError, httpx.InvalidURL):
        # As clients do: an older server, or a front that passes on the events alone.
        return httpx.URL(deployment.url).join(EVENTS), f"{CONFIG} is {response.status_code}, so pages ask"


async def _policy(deployment: Deployment) -> str:
    """Return the policy of the site's own page; "" where there is no page, or none."""
    with contextlib.suppress(Decided):
        response = await deployment.ask("GET", "/", headers={"accept": "text/html"})
        if response.is_success:
            return str(response.headers.get("content-security-policy", ""))
    return ""


def allows(policy: str, origin: str, url: httpx.URL) -> bool:
    """Tell whether a page of the origin, with this policy, may connect there (CSP Level 3, "Matching source lists")."""
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


async def _open(deployment: Deployment, stream: httpx.URL, origin: str, told: str) -> Finding:
    where = place(stream)
    headers = {"origin": origin, **bearer(deployment.subscriber)}
    try:
        response = await open_stream(
            deployment.http, str(stream), deployment.subscription(), headers, deployment.limits.answer
        )
    except TimeoutError:
        return skip("of a stream nothing comes: see `buffering`")
    except httpx.RequestError as error:
        found = unreachable(stream, error)
        return fail(f"{told} {where}: {found.reason}", f"{NAME_IT}. {found.advice}", url=where)
    async with contextlib.aclosing(response):
        kind = response.headers.get("content-type", "of no type")
        if response.status_code == 200 and kind.startswith("text/event-stream"):
            return ok(f"{told} {where}, and it opens from a page of {origin}", url=where)
        detail = kind if response.status_code == 200 else await detail_of(response)
    advice = refused(response.status_code) if response.status_code in (401, 403, 503) else LEAD_THERE
    return fail(f"{told} {where}, and there is no stream: {detail}", advice, url=where)
