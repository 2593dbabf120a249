"""Who is let in: `anonymous-publish`, `wrong-key`, `publish`, `token`, `ticket`, `forged-token`."""

import secrets

import httpx
import msgspec

from tidewire.client.answers import detail_of
from tidewire.client.retrying import claims_of
from tidewire.settings.endpoints import LOCAL
from tidewire.tools.doctor.deployment import TYPE, Deployment, bearer
from tidewire.tools.doctor.faults import place
from tidewire.tools.doctor.findings import Decided, Finding, fail, milliseconds, ok, skip, warn
from tidewire.tools.doctor.streams import now

TOKEN_SECONDS = 600  # that a token made here holds: longer than any run
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
    """Publish without a key, which must be refused."""
    _, response = await deployment.send_event(None)
    if response.status_code == 401:
        return ok("refused: 401")
    if response.status_code != 202:
        return await _unexpected(response, "not refused with 401")
    deployment.auth_required, deployment.can_publish = False, True
    advice = "Set REALTIME_PUBLISH_KEYS and REALTIME_JWT_SECRET, and leave REALTIME_AUTH=none out"
    if deployment.is_local:
        return warn(f"{AUTH_IS_OFF}, as in memory mode", advice)
    return fail(f"{AUTH_IS_OFF}: everyone can publish, and read every user's events", advice)


async def wrong_key(deployment: Deployment) -> Finding:
    """Publish with a key that nobody has been given."""
    if not deployment.auth_required:
        return skip(AUTH_IS_OFF)
    _, response = await deployment.send_event(secrets.token_hex(32))
    if response.status_code == 401:
        return ok("refused: 401")
    if response.status_code != 202:
        return await _unexpected(response, "not refused with 401")
    return fail(
        "a key that was made up this moment is accepted",
        "See what is in front: does it put a key of its own into Authorization for everyone?",
    )


async def publish(deployment: Deployment) -> Finding:
    """Publish with the key."""
    if deployment.auth_required and deployment.key is None:
        return skip("no key was given that can be sent", "Set TIDEWIRE_KEY to one of REALTIME_PUBLISH_KEYS")
    began = now()
    _, response = await deployment.send_event(deployment.key)
    took = milliseconds(now() - began)
    detail = "" if response.status_code == 202 else await detail_of(response)
    match response.status_code:
        case 202:
            pass
        case 401:
            advice = (
                "Set TIDEWIRE_KEY to one of the deployment's REALTIME_PUBLISH_KEYS (put a rotated one at its place too)"
            )
            return fail(f"the key is refused: {detail}", advice)
        case 403:
            advice = (
                f"The key is limited: list it in REALTIME_PUBLISH_KEYS with :{TYPE} too"
                " (docs/configuration.md, Publish keys)"
            )
            return fail(f"the key may not publish {TYPE}: {detail}", advice)
        case _:
            return await _unexpected(response, "not accepted")
    deployment.can_publish = True
    try:
        receipt = msgspec.json.decode(response.content, type=_Receipts).events[0]
    except (msgspec.DecodeError, IndexError):
        return fail("accepted, and the answer has no receipt", "See that nothing in front answers for the functions")
    if not receipt.durable:
        advice = "See the store: until it is back, what is accepted is in one process's memory (docs/transports.md)"
        return warn("accepted, but not durable: the log is away", advice, publishMs=took)
    return ok(f"accepted, {took:g} ms", publishMs=took)


async def token(deployment: Deployment) -> Finding:
    """Look at the token that was given, and get one for our own user: made there, signed here, or else that one."""
    if not deployment.auth_required:
        return skip(f"{AUTH_IS_OFF}: none is needed")
    if deployment.token is not None:
        response = await _ask_for_ticket(deployment, deployment.token)
        if response.status_code == 401:
            advice = "Set TIDEWIRE_TOKEN to a token of this deployment; REALTIME_JWT_ISSUER and _AUDIENCE count too"
            return fail(f"the token is refused: {await detail_of(response)}", advice)
    notes = []
    for way in (_minted, _signed, _given):
        told = await way(deployment)
        if deployment.subscriber is not None:
            deployment.hidden.add(deployment.subscriber)
            return await _accepted(deployment, told)
        notes.append(told)
    advice = "Give a key that may make tokens (key:realtime.tokens), or TIDEWIRE_TOKEN, or REALTIME_JWT_SECRET"
    return skip("; ".join(note for note in notes if note), advice)


async def _accepted(deployment: Deployment, told: str) -> Finding:
    assert deployment.subscriber is not None
    response = await _ask_for_ticket(deployment, deployment.subscriber)
    if response.status_code in (200, 501):  # 501: it verifies with a key set and signs nothing, and the token held
        return ok(f"{told}, and accepted")
    detail = await detail_of(response)
    deployment.subscriber = None
    if response.status_code != 401:
        return fail(
            f"{told}, and not accepted: {detail}", "See that /api/tickets leads to the functions, and their log"
        )
    advice = "Every function needs the same REALTIME_JWT_SECRET, _ISSUER and _AUDIENCE; see `clock` too"
    return fail(f"{told}, and refused: {detail}", advice)


async def _minted(deployment: Deployment) -> str:
    if deployment.key is None:
        return "no key to have a token made with"
    body = {"userId": deployment.user, "types": [TYPE]}
    response = await deployment.ask("POST", "/api/tokens", deployment.key, json=body)
    if response.status_code == 200:
        try:
            deployment.subscriber = msgspec.json.decode(response.content, type=_Token).token
            return "made by POST /api/tokens"
        except msgspec.DecodeError:
            return "POST /api/tokens: an answer without a token"
    return f"POST /api/tokens: {await detail_of(response)}"


async def _signed(deployment: Deployment) -> str:
    environ = {name: value.strip() for name, value in deployment.environ.items()}
    secret = environ.get("REALTIME_JWT_SECRET")
    if not secret or secret.startswith(("ssm:", "secretsmanager:")):
        return "no REALTIME_JWT_SECRET here to sign one with"
    from tidewire.model.permissions import AllowedTypes
    from tidewire.security.signing import Signer

    issuer, audience = (environ.get(name) or None for name in ("REALTIME_JWT_ISSUER", "REALTIME_JWT_AUDIENCE"))
    deployment.hidden.add(secret)
    deployment.subscriber = Signer(secret, issuer, audience).token(
        deployment.user, AllowedTypes.parse([TYPE]), TOKEN_SECONDS
    )
    return "signed here with REALTIME_JWT_SECRET"


async def _given(deployment: Deployment) -> str:
    """Take the token that was given. Our events are then for its user, and for nobody else."""
    if deployment.token is None:
        return "no token was given"
    user = claims_of(deployment.token).get("sub")
    if not isinstance(user, str):
        return "the token has no sub: events for it would be events for everyone"
    deployment.subscriber, deployment.user = deployment.token, user
    return "the given one is used"


async def ticket(deployment: Deployment) -> Finding:
    """Ask for a ticket, which names where streams are."""
    if not deployment.auth_required:
        return skip(f"{AUTH_IS_OFF}: none is needed")
    deployment.need_subscriber()
    response = await _ask_for_ticket(deployment, deployment.subscriber)
    if response.status_code == 501:
        return skip(f"none are given here: {await detail_of(response)}", "Streams are taken to be at /api/events")
    if response.status_code != 200:
        advice = "Let POST /api/tickets through, with its Authorization header"
        return fail(f"no ticket: {await detail_of(response)}", advice)
    url = _read_ticket(deployment, response)[1]
    deployment.stream_url = ""
    where, advice = place(url), "Set REALTIME_STREAM_URL to the streams' https:// address (docs/deploy.md)"
    if url.scheme == "http" and httpx.URL(deployment.url).scheme == "https":
        return fail(f"it leads to {where}: no browser opens http:// from an https:// page", advice, url=where)
    if url.host in LOCAL and not deployment.is_local:
        return fail(f"it leads to {where}, which is another machine for each client", advice, url=where)
    try:
        await deployment.ask("GET", str(url), headers={"accept": "application/json"})
    except Decided as decided:
        return fail(f"it leads to {where}: {decided.finding.reason}", f"{advice}. {decided.finding.advice}", url=where)
    deployment.stream_url, deployment.gives_tickets = str(url), True
    return ok(f"it leads to {where}", url=where)


async def new_ticket(deployment: Deployment) -> str:
    """Return a ticket for one more connection. Raises Decided."""
    response = await _ask_for_ticket(deployment, deployment.subscriber)
    if response.status_code != 200:
        raise Decided(fail(f"no ticket: {await detail_of(response)}", "See the log of the function for /api/tickets"))
    return _read_ticket(deployment, response)[0]


def _read_ticket(deployment: Deployment, response: httpx.Response) -> tuple[str, httpx.URL]:
    try:
        told = msgspec.json.decode(response.content, type=_Ticket)
        url = httpx.URL(deployment.url).join(told.url)
    except (msgspec.DecodeError, httpx.InvalidURL):
        advice = "Let /api/ through to the functions: what answers is something else"
        raise Decided(fail("the answer is no ticket", advice)) from None
    deployment.hidden.add(told.ticket)
    return told.ticket, url


async def forged_token(deployment: Deployment) -> Finding:
    """Ask for events without a token, and with one whose signature does not hold: where streams are."""
    if not deployment.auth_required:
        return skip(AUTH_IS_OFF)
    deployment.need_subscriber()
    assert deployment.subscriber is not None
    for name, credential in (("no token", None), ("a token with another signature", _forged(deployment.subscriber))):
        headers = {"accept": "application/json", **bearer(credential)}
        response = await deployment.ask("GET", deployment.stream_url, headers=headers, params=deployment.subscription())
        if response.status_code == 200:
            advice = (
                "Where streams are, REALTIME_AUTH must not be none; and nothing in front may put a token of its own in"
            )
            return fail(f"{name}: events are given out", advice)
        if response.status_code != 401:
            return await _unexpected(response, f"{name}: not refused with 401")
    return ok("refused: 401, as is no token")


def _forged(token: str) -> str:
    head, _, signature = token.rpartition(".")
    return f"{head}.{'B' if signature.startswith('A') else 'A'}{signature[1:]}"


async def _ask_for_ticket(deployment: Deployment, credential: str | None) -> httpx.Response:
    return await deployment.ask("POST", "/api/tickets", credential)


async def _unexpected(response: httpx.Response, what: str) -> Finding:
    detail = await detail_of(response)
    match response.status_code:
        case 403 if "x-nf-sign" in detail:
            advice = "Give the site's address: REALTIME_NETLIFY_SECRET lets nothing past it"
        case 404 | 405:
            advice = (
                "See that what is in front leads /api/publish to the publish function, and /api/events to the stream's"
            )
        case 429:
            advice = "Ask again later: a limit of the deployment is reached (docs/configuration.md, Limits)"
        case 503:
            advice = "See the store: it does not answer (docs/operate/README.md)"
        case _:
            advice = "See the function's log"
    return fail(f"{what}: {detail}", advice)
