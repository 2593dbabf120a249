"""`cors` and `cors-stream`: whether a page of the origin may send requests and read the responses of each host."""

from collections.abc import Iterator

import httpx

from tidewire.client.responses import detail_of
from tidewire.protocol.headers import EXPOSED_HEADERS, METHODS
from tidewire.tools.doctor.deployment import Deployment
from tidewire.tools.doctor.findings import Decided, Finding, fail, ok, skip

STRANGER = "https://tidewire-doctor.invalid"  # no page can have this origin (RFC 2606)
CLIENT_HEADERS = {"authorization", "content-type", "last-event-id"}

ONLY_ONE = "Let the functions alone set Access-Control headers, from REALTIME_ALLOWED_ORIGINS, not the proxy in front"


async def cors(deployment: Deployment) -> Finding:
    """Check the URL of tickets."""
    return await _check_page(deployment, "POST", f"{deployment.url}/api/tickets")


async def cors_stream(deployment: Deployment) -> Finding:
    """Check the URL of streams."""
    deployment.need_subscriber()
    return await _check_page(deployment, "GET", deployment.stream_url)


async def _check_page(deployment: Deployment, method: str, url: str) -> Finding:
    origin = deployment.origin
    if origin is None:
        return skip(
            "there is no origin to check", "Use --origin with the origin of the page: --origin https://app.example.com"
        )
    if origin == origin_of(url):
        return skip(f"a page of {origin} is on the same host, and needs no CORS")
    return await check_preflight(deployment, method, url, origin)


async def check_preflight(deployment: Deployment, method: str, url: str, origin: str) -> Finding:
    """Send a preflight and a request, as a page of another host does. Raises Decided."""
    requested = {
        "access-control-request-method": method,
        "access-control-request-headers": ", ".join(sorted(CLIENT_HEADERS)),
    }
    preflight = await deployment.request("OPTIONS", url, headers={"origin": origin, **requested})
    if not preflight.is_success:
        raise Decided(_refused(origin, await detail_of(preflight)))
    # Without a credential: the headers must be on every response, also on errors.
    response = await deployment.request(method, url, headers={"origin": origin, "accept": "application/json"})
    stranger = await deployment.request(method, url, headers={"origin": STRANGER, "accept": "application/json"})
    if max(len(_allowed(preflight)), len(_allowed(response))) > 1:
        return fail("Access-Control-Allow-Origin is there twice, which browsers reject", ONLY_ONE, origin=origin)
    for problem in (*_preflight(preflight, method, origin), *_response(response, origin), *_stranger(stranger)):
        return problem
    return ok(f"{origin} has access; another origin has none", origin=origin)


def _refused(origin: str, what: str) -> Finding:
    advice = f"Add {origin} to REALTIME_ALLOWED_ORIGINS of every function, and route OPTIONS to them"
    return fail(f"the preflight of {origin} is refused: {what}", advice, origin=origin)


def _preflight(response: httpx.Response, method: str, origin: str) -> Iterator[Finding]:
    if origin not in _allowed(response):
        yield _refused(origin, f"{response.status_code} without Access-Control-Allow-Origin for it")
    for name, wanted in (("methods", {method.lower()}), ("headers", CLIENT_HEADERS)):
        if missing := wanted - _items(response, f"access-control-allow-{name}"):
            advice = f"Let the functions answer preflights, not the proxy: they allow {METHODS} and these headers"
            yield fail(f"the preflight does not allow {', '.join(sorted(missing))}", advice, origin=origin)


def _response(response: httpx.Response, origin: str) -> Iterator[Finding]:
    advice = "Forward the Origin header to the functions, and their Access-Control headers to the page"
    if origin not in _allowed(response):
        yield fail(f"a page of {origin} cannot read the response: no Access-Control-Allow-Origin", advice)
    if response.headers.get("access-control-allow-credentials") != "true":
        yield fail("responses lack Access-Control-Allow-Credentials: cookies do not work", advice)
    if missing := {name.strip().lower() for name in EXPOSED_HEADERS.split(",")} - _items(
        response, "access-control-expose-headers"
    ):
        yield fail(f"responses do not expose {', '.join(sorted(missing))}: clients cannot read the delay", advice)
    if not {"origin", "*"} & _items(response, "vary"):
        yield fail("responses lack Vary: Origin: a cache can return one origin's response to another", advice)


def _stranger(response: httpx.Response) -> Iterator[Finding]:
    if _allowed(response):
        yield fail("every origin may read the responses: any page can use a visitor's token", ONLY_ONE)


def _allowed(response: httpx.Response) -> list[str]:
    return response.headers.get_list("access-control-allow-origin", split_commas=True)


def _items(response: httpx.Response, name: str) -> set[str]:
    return {item.strip().lower() for item in response.headers.get(name, "").split(",")}


def origin_of(url: str) -> str:
    """Return the origin of a URL, as browsers send it."""
    parts = httpx.URL(url)
    return f"{parts.scheme}://{parts.netloc.decode('ascii')}"
