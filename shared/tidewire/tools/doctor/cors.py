"""`cors` and `cors-stream`: whether a page of the origin may ask, and read the answers, at each of the two hosts."""

from collections.abc import Iterator

import httpx

from tidewire.client.answers import detail_of
from tidewire.protocol.headers import EXPOSED_HEADERS, METHODS
from tidewire.tools.doctor.deployment import Deployment
from tidewire.tools.doctor.findings import Decided, Finding, fail, ok, skip

STRANGER = "https://tidewire-doctor.invalid"  # no page can have it (RFC 2606)
ASKED = {"authorization", "content-type", "last-event-id"}  # what clients of ours send

ONLY_ONE = "Have no Access-Control headers made by what is in front: the functions know REALTIME_ALLOWED_ORIGINS"


async def cors(deployment: Deployment) -> Finding:
    """Ask where tickets are."""
    return await _check_page(deployment, "POST", f"{deployment.url}/api/tickets")


async def cors_stream(deployment: Deployment) -> Finding:
    """Ask where streams are."""
    deployment.need_subscriber()
    return await _check_page(deployment, "GET", deployment.stream_url)


async def _check_page(deployment: Deployment, method: str, url: str) -> Finding:
    origin = deployment.origin
    if origin is None:
        return skip("no origin was given", "Give the page's: --origin https://app.example.com")
    if origin == origin_of(url):
        return skip(f"a page of {origin} asks its own host: it needs none")
    return await check_preflight(deployment, method, url, origin)


async def check_preflight(deployment: Deployment, method: str, url: str, origin: str) -> Finding:
    """Ask there as a page of another host does: by a preflight, and then for an answer. Raises Decided."""
    asks = {"access-control-request-method": method, "access-control-request-headers": ", ".join(sorted(ASKED))}
    preflight = await deployment.ask("OPTIONS", url, headers={"origin": origin, **asks})
    if not preflight.is_success:
        raise Decided(_refused(origin, await detail_of(preflight)))
    # Without a credential: what is looked at must be on every answer, errors included.
    answer = await deployment.ask(method, url, headers={"origin": origin, "accept": "application/json"})
    stranger = await deployment.ask(method, url, headers={"origin": STRANGER, "accept": "application/json"})
    if max(len(_allowed(preflight)), len(_allowed(answer))) > 1:
        return fail("Access-Control-Allow-Origin is there twice: browsers take that for none", ONLY_ONE, origin=origin)
    for problem in (*_preflight(preflight, method, origin), *_answer(answer, origin), *_stranger(stranger)):
        return problem
    return ok(f"{origin} may ask and read; another origin may not", origin=origin)


def _refused(origin: str, what: str) -> Finding:
    advice = f"Put {origin} into REALTIME_ALLOWED_ORIGINS of every function, and let OPTIONS through to them"
    return fail(f"the preflight of {origin} is refused: {what}", advice, origin=origin)


def _preflight(response: httpx.Response, method: str, origin: str) -> Iterator[Finding]:
    if origin not in _allowed(response):
        yield _refused(origin, f"{response.status_code} without Access-Control-Allow-Origin for it")
    for name, wanted in (("methods", {method.lower()}), ("headers", ASKED)):
        if missing := wanted - _items(response, f"access-control-allow-{name}"):
            advice = (
                f"Have the functions answer preflights, not what is in front: they allow {METHODS} and these headers"
            )
            yield fail(f"the preflight does not allow {', '.join(sorted(missing))}", advice, origin=origin)


def _answer(response: httpx.Response, origin: str) -> Iterator[Finding]:
    advice = "Pass the Origin header on to the functions, and their Access-Control headers back to the page"
    if origin not in _allowed(response):
        yield fail(f"a page of {origin} may ask, and not read the answer: no Access-Control-Allow-Origin", advice)
    if response.headers.get("access-control-allow-credentials") != "true":
        yield fail("answers lack Access-Control-Allow-Credentials: a token in a cookie cannot be used", advice)
    if missing := {name.strip().lower() for name in EXPOSED_HEADERS.split(",")} - _items(
        response, "access-control-expose-headers"
    ):
        yield fail(f"answers do not expose {', '.join(sorted(missing))}: clients cannot tell how long to wait", advice)
    if not {"origin", "*"} & _items(response, "vary"):
        yield fail("answers lack Vary: Origin: a cache gives one origin's answer to another", advice)


def _stranger(response: httpx.Response) -> Iterator[Finding]:
    if _allowed(response):
        yield fail("every origin may read the answers: a page of anyone can use a visitor's token", ONLY_ONE)


def _allowed(response: httpx.Response) -> list[str]:
    return response.headers.get_list("access-control-allow-origin", split_commas=True)


def _items(response: httpx.Response, name: str) -> set[str]:
    return {item.strip().lower() for item in response.headers.get(name, "").split(",")}


def origin_of(url: str) -> str:
    """Return the origin of a URL, as a browser writes it into a header."""
    parts = httpx.URL(url)
    return f"{parts.scheme}://{parts.netloc.decode('ascii')}"
