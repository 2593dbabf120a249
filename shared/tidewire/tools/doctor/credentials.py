"""Authentication: `anonymous-publish`, `wrong-key`, `publish`, `token`, `ticket`, `forged-token`."""

import secrets

import httpx
import msgspec

from tidewire.client.responses import detail_of
from tidewire.client.retry import claims_of
from tidewire.settings.endpoints import LOCAL
from tidewire.tools.doctor.deployment import TYPE, Deployment, bearer
from tidewire.tools.doctor.findings import Decided, Finding, fail, milliseconds, ok, public, skip, warn
from tidewire.tools.doctor.streams import now

TOKEN_SECONDS = 600  # lifetime of a token signed here: longer than any run
AUTH_IS_OFF = "authentication is off"


class _Receipt(msgspec.Struct):
    cursor: str | None = None
    durable: bool = True


class _Receipts(msgspec.Struct):
    events: list[_Receipt]


class _Token(msgspec.Struct):
    token: str


class _Ticket(msgspec.Struct):
    ticket: str
    url: str


async def anonymous_publish(deployment: Deployment) -> Finding:
    """Publish without a key; must be refused."""
    _, response = await deployment.send_event(None)
    if response.status_code == 401:
        return ok("refused: 401")
    if response.status_code != 202:
        return await _unexpected(response, "not refused with 401")
    deployment.auth_required, deployment.can_publish = False, True
    advice = "Set REALTIME_PUBLISH_KEYS and REALTIME_JWT_SECRET, and remove REALTIME_AUTH=none"
    if deployment.is_local:
        return warn(f"{AUTH_IS_OFF}, as in memory mode", advice)
    return fail(f"{AUTH_IS_OFF}: everyone can publish, and read every user's events", advice)


async def wrong_key(deployment: Deployment) -> Finding:
    """Publish with a random key; must be refused."""
    if not deployment.auth_required:
        return skip(AUTH_IS_OFF)
    _, response = await deployment.send_event(secrets.token_hex(32))
    if response.status_code == 401:
        return ok("refused: 401")
    if response.status_code != 202:
        return await _unexpected(response, "not refused with 401")
    return fail(
        "a random key is accepted",
        "Check whether the proxy in front sets a key of its own in the Authorization header",
    )


async def publish(deployment: Deployment) -> Finding:
    """Publish with the key."""
    if deployment.auth_required and deployment.key is None:
        return skip("there is no usable key", "Set TIDEWIRE_KEY to one of REALTIME_PUBLISH_KEYS")
    began = now()
    _, response = await deployment.send_event(deployment.key)
    took = milliseconds(now() - began)
    detail = "" if response.status_code == 202 else await detail_of(response)
    match response.status_code:
        case 202:
            pass
        case 401:
            advice = (
                "Set TIDEWIRE_KEY to one of the deployment's REALTIME_PUBLISH_KEYS (after a rotation, to the new one)"
            )
            return fail(f"the key is refused: {detail}", advice)
        case 403:
            advice = (
                f"The key is limited: list it in REALTIME_PUBLISH_KEYS again with :{TYPE}"
                " (docs/configuration.md, Publish keys)"
            )
            return fail(f"the key may not publish {TYPE}: {detail}", advice)
        case _:
            return await _unexpected(response, "not accepted")
    deployment.can_publish = True
    try:
        receipt = msgspec.json.decode(response.content, type=_Receipts).events[0]
    except (msgspec.DecodeError, IndexError):
        return fail(
            "accepted, but the response has no receipt",
            "Check that no proxy in front responds instead of the functions",
        )
    if not receipt.durable:
        advice = "Check the store: until it responds, accepted events are in one process's memory (docs/transports.md)"
        return warn("accepted, but not durable: the log is unavailable", advice, publishMs=took)
    return ok(f"accepted, {took:g} ms", publishMs=took)


async def token(deployment: Deployment) -> Finding:
    """Check the given token, and get one for our user: from the deployment, signed here, or the given one."""
    if not deployment.auth_required:
        return skip(f"{AUTH_IS_OFF}: no token is needed")
    if deployment.token is not None:
        response = await _request_ticket(deployment, deployment.token)
        if response.status_code == 401:
            advice = (
                "Set TIDEWIRE_TOKEN to a token of this deployment; REALTIME_JWT_ISSUER and _AUDIENCE must match too"
            )
            return fail(f"the token is refused: {await detail_of(response)}", advice)
    notes = []
    for get_token in (_issued, _signed, _given):
        source = await get_token(deployment)
        if deployment.subscriber is not None:
            deployment.secrets.add(deployment.subscriber)
            return await _accepted(deployment, source)
        notes.append(source)
    advice = "Use a key that may make tokens (key:realtime.tokens), or set TIDEWIRE_TOKEN or REALTIME_JWT_SECRET"
    return skip("; ".join(note for note in notes if note), advice)


async def _accepted(deployment: Deployment, source: str) -> Finding:
    assert deployment.subscriber is not None
    response = await _request_ticket(deployment, deployment.subscriber)
    if response.status_code in (200, 501):  # 501: the token is valid, but the deployment signs no tickets
        return ok(f"{source}, and accepted")
    detail = await detail_of(response)
    deployment.subscriber = None
    if response.status_code != 401:
        return fail(
            f"{source}, but not accepted: {detail}", "Check that /api/tickets is routed to the functions; see their log"
        )
    advice = "Every function needs the same REALTIME_JWT_SECRET, _ISSUER and _AUDIENCE; see `clock` too"
    return fail(f"{source}, but refused: {detail}", advice)


async def _issued(deployment: Deployment) -> str:
    if deployment.key is None:
        return "there is no key to request a token with"
    body = {"userId": deployment.user, "types": [TYPE]}
    response = await deployment.request("POST", "/api/tokens", deployment.key, json=body)
    if response.status_code == 200:
        try:
            deployment.subscriber = msgspec.json.decode(response.content, type=_Token).token
            return "made by POST /api/tokens"
        except msgspec.DecodeError:
            return "POST /api/tokens: the response has no token"
    return f"POST /api/tokens: {await detail_of(response)}"


async def _signed(deployment: Deployment) -> str:
    environ = {name: value.strip() for name, value in deployment.environ.items()}
    secret = environ.get("REALTIME_JWT_SECRET")
    if not secret or secret.startswith(("ssm:", "secretsmanager:")):
        return "this shell has no REALTIME_JWT_SECRET to sign a token with"
    from tidewire.model.permissions import AllowedTypes
    from tidewire.security.signing import Signer

    issuer, audience = (environ.get(name) or None for name in ("REALTIME_JWT_ISSUER", "REALTIME_JWT_AUDIENCE"))
    deployment.secrets.add(secret)
    deployment.subscriber = Signer(secret, issuer, audience).token(
        deployment.user, AllowedTypes.parse([TYPE]), TOKEN_SECONDS
    )
    return "signed here with REALTIME_JWT_SECRET"


async def _given(deployment: Deployment) -> str:
    """Use the given token. Our events are then for its user only."""
    if deployment.token is None:
        return "there is no given token"
    user = claims_of(deployment.token).get("sub")
    if not isinstance(user, str):
        return "the token has no sub: its events would be events for everyone"
    deployment.subscriber, deployment.user = deployment.token, user
    return "the given token is used"


async def ticket(deployment: Deployment) -> Finding:
    """Request a ticket, which names the stream URL."""
    if not deployment.auth_required:
        return skip(f"{AUTH_IS_OFF}: no ticket is needed")
    deployment.need_subscriber()
    response = await _request_ticket(deployment, deployment.subscriber)
    if response.status_code == 501:
        return skip(f"the deployment issues no tickets: {await detail_of(response)}", "The checks use /api/events")
    if response.status_code != 200:
        advice = "Route POST /api/tickets to the functions, with its Authorization header"
        return fail(f"no ticket: {await detail_of(response)}", advice)
    url = _read_ticket(deployment, response)[1]
    deployment.stream_url = ""
    where, advice = public(url), "Set REALTIME_STREAM_URL to the stream's https:// address (docs/deploy.md)"
    if url.scheme == "http" and httpx.URL(deployment.url).scheme == "https":
        return fail(f"its URL is {where}: browsers do not open http:// from an https:// page", advice, url=where)
    if url.host in LOCAL and not deployment.is_local:
        return fail(f"its URL is {where}, which is each client's own machine", advice, url=where)
    try:
        await deployment.request("GET", str(url), headers={"accept": "application/json"})
    except Decided as decided:
        return fail(f"its URL is {where}: {decided.finding.reason}", f"{advice}. {decided.finding.advice}", url=where)
    deployment.stream_url, deployment.gives_tickets = str(url), True
    return ok(f"its URL is {where}", url=where)


async def new_ticket(deployment: Deployment) -> str:
    """Return a ticket for one more connection. Raises Decided."""
    response = await _request_ticket(deployment, deployment.subscriber)
    if response.status_code != 200:
        raise Decided(fail(f"no ticket: {await detail_of(response)}", "See the log of the function for /api/tickets"))
    return _read_ticket(deployment, response)[0]


def _read_ticket(deployment: Deployment, response: httpx.Response) -> tuple[str, httpx.URL]:
    try:
        issued = msgspec.json.decode(response.content, type=_Ticket)
        url = httpx.URL(deployment.url).join(issued.url)
    except (msgspec.DecodeError, httpx.InvalidURL):
        advice = "Route /api/ to the functions: another server responds here"
        raise Decided(fail("the response is not a ticket", advice)) from None
    deployment.secrets.add(issued.ticket)
    return issued.ticket, url


async def forged_token(deployment: Deployment) -> Finding:
    """Request events from the stream URL without a token, and with a forged signature; must be refused."""
    if not deployment.auth_required:
        return skip(AUTH_IS_OFF)
    deployment.need_subscriber()
    assert deployment.subscriber is not None
    for name, credential in (("no token", None), ("a token with a forged signature", _forged(deployment.subscriber))):
        headers = {"accept": "application/json", **bearer(credential)}
        response = await deployment.request(
            "GET", deployment.stream_url, headers=headers, params=deployment.subscription()
        )
        if response.status_code == 200:
            advice = (
                "REALTIME_AUTH of the stream must not be none, and the proxy in front must not set a token of its own"
            )
            return fail(f"{name}: events are returned", advice)
        if response.status_code != 401:
            return await _unexpected(response, f"{name}: not refused with 401")
    return ok("both are refused: 401")


def _forged(token: str) -> str:
    head, _, signature = token.rpartition(".")
    return f"{head}.{'B' if signature.startswith('A') else 'A'}{signature[1:]}"


async def _request_ticket(deployment: Deployment, credential: str | None) -> httpx.Response:
    return await deployment.request("POST", "/api/tickets", credential)


async def _unexpected(response: httpx.Response, what: str) -> Finding:
    detail = await detail_of(response)
    match response.status_code:
        case 403 if "x-nf-sign" in detail:
            advice = "Use the site's address: with REALTIME_NETLIFY_SECRET, only requests through Netlify are accepted"
        case 404 | 405:
            advice = "Check that the proxy routes /api/publish to the publish function, and /api/events to the stream"
        case 429:
            advice = "Try again later: a limit of the deployment is reached (docs/configuration.md, Limits)"
        case 503:
            advice = "Check the store: it does not respond (docs/operate/README.md)"
        case _:
            advice = "See the function's log"
    return fail(f"{what}: {detail}", advice)
