"""Who may follow, for how long, and where: POST /api/tokens, /api/tickets and /api/revocations, GET /api/config.

`handler` is the Lambda entry.
"""

import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tidewire.delivery.hub import Hub
from tidewire.delivery.revocations import Revocation
from tidewire.errors import Forbidden, Unavailable
from tidewire.http.api import media_type, read_body, to_response
from tidewire.model.event import is_user_id
from tidewire.model.permissions import REVOCATIONS, TOKENS, TYPE_OR_PATTERN, AllowedTypes, PublishKey
from tidewire.protocol import strict_json
from tidewire.protocol.problem import problem
from tidewire.protocol.sse import rfc3339
from tidewire.protocol.subscribe_request import MAX_TYPES
from tidewire.security.auth import PublishKeys, Verifier, bearer, check_right, subscriber_token
from tidewire.security.signing import DEFAULT_TTL, TICKET_SECONDS, Signer
from tidewire.settings.config import Settings

MAX_BODY_BYTES = 64 * 1024  # a hundred of the longest types, and room for spaces

JSON = "application/json"
_HEADERS = {"content-type": JSON, "cache-control": "no-store", "x-content-type-options": "nosniff"}


class _TokenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Whom a token is for; without a user it hears only what is for everyone."""

    user_id: str | None = None
    types: tuple[str, ...] | None = None
    ttl: int | float | None = None  # 60.0 is a whole number too, for JSON Schema and for many writers of JSON


_token_request = msgspec.json.Decoder(_TokenRequest)


class _RevocationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Whose tokens hold no longer."""

    user_id: str


_revocation_request = msgspec.json.Decoder(_RevocationRequest)


def routes(hub: Hub, settings: Settings) -> list[BaseRoute]:
    """Return the routes of this function."""
    keys = PublishKeys(settings.publish_keys)
    verifier = Verifier.from_settings(settings)
    signer = Signer.from_settings(settings)

    async def tokens(request: Request) -> Response:
        if (missing := _missing_for_tokens(settings)) is not None:
            return _not_here(f"Tokens are not issued here: {missing} is not set")
        # Also with REALTIME_AUTH=none: the same secret may guard the streams of another function.
        key = keys.check(bearer(request.headers))
        check_right(key, TOKENS)
        if media_type(request) != JSON:
            return _not_json()
        asked = _parse(await _read(request), signer.max_ttl)
        types = _types(asked, key)
        ttl = min(DEFAULT_TTL, signer.max_ttl) if asked.ttl is None else int(asked.ttl)
        return _answer({"token": signer.token(asked.user_id, types, ttl), "expiresIn": ttl})

    async def tickets(request: Request) -> Response:
        if not settings.auth_required:
            return _not_here(f"Authentication is off: {settings.stream_url} needs no ticket")
        identity = await verifier.verify(subscriber_token(request.headers))
        if not signer.able:
            return _not_here("Tickets are not issued here: REALTIME_JWT_SECRET is not set")
        ticket = signer.ticket(identity)
        return _answer({"ticket": ticket, "expiresIn": TICKET_SECONDS, "url": settings.stream_url})

    async def revocations(request: Request) -> Response:
        if not settings.auth_required:
            return _not_here("Authentication is off: there are no tokens to revoke")
        if settings.transport == "eventbridge":  # its target takes events, and nothing that is reserved
            return _not_here("A revocation goes straight to the log: send it to a function whose transport that is")
        check_right(keys.check(bearer(request.headers)), REVOCATIONS)
        if media_type(request) != JSON:
            return _not_json()
        asked = strict_json.decode(_revocation_request, await _read(request), name="The request")
        strict_json.check_all([("", _user_problems(asked.user_id))])
        milliseconds = time.time_ns() // 1_000_000
        (receipt,) = await hub.dispatch([Revocation(asked.user_id, milliseconds / 1000).event()])
        if not receipt.durable:  # the fallback's memory is no place for what everyone must know
            raise Unavailable(
                "The log is away: until it is back, the revocation holds on this instance alone; ask again"
            )
        return _answer({"userId": asked.user_id, "revokedBefore": rfc3339(milliseconds)}, 202)

    return [
        _config_route(settings),
        Route("/api/tokens", tokens, methods=["POST"]),
        Route("/api/tickets", tickets, methods=["POST"]),
        Route("/api/revocations", revocations, methods=["POST"]),
    ]


def _config_route(settings: Settings) -> Route:
    """Return the route of what every client may know: no field may ever hold a secret."""
    content = {"auth": "required" if settings.auth_required else "none", "streamUrl": settings.stream_url}

    async def config(request: Request) -> Response:
        return _answer(content)

    return Route("/api/config", config)


async def _read(request: Request) -> bytes:
    body = await read_body(request, MAX_BODY_BYTES)
    strict_json.check_json(body)
    return body


def _user_problems(user_id: str | None) -> list[tuple[str, str]]:
    good = user_id is None or is_user_id(user_id)
    return [] if good else [("/userId", "must be 1 to 256 characters without control characters")]


def _parse(body: bytes, max_ttl: int) -> _TokenRequest:
    asked = strict_json.decode(_token_request, body, name="The request")
    found = _user_problems(asked.user_id)
    if asked.types is not None and not 0 < len(asked.types) <= MAX_TYPES:
        found.append(("/types", f"must name 1 to {MAX_TYPES} types: leave it out to allow all"))
    for index, pattern in enumerate((asked.types or ())[:MAX_TYPES]):
        if not TYPE_OR_PATTERN.fullmatch(pattern):
            found.append((f"/types/{index}", "must be an event type, or the beginning of some and *"))
    if asked.ttl is not None and not (1 <= asked.ttl <= max_ttl and asked.ttl == int(asked.ttl)):
        found.append(("/ttl", f"must be a whole number of seconds from 1 to {max_ttl:,}: a day, or REALTIME_RETENTION"))
    strict_json.check_all([("", found)])
    return asked


def _types(asked: _TokenRequest, key: PublishKey) -> AllowedTypes | None:
    """Return what the token allows; raises Forbidden where that is more than the key does."""
    if key.types is not None:
        if asked.types is None:
            raise Forbidden("The publish key is limited to some types: name in types those that the token allows")
        if refused := [pattern for pattern in asked.types if not key.types.covers(pattern)]:
            raise Forbidden(f"The publish key does not allow {min(refused)!r}")
    return None if asked.types is None else AllowedTypes.parse(asked.types)


def _missing_for_tokens(settings: Settings) -> str | None:
    """Return the variable without which nobody could have a token made, None if there is none."""
    if settings.jwt_secret is None:
        return "REALTIME_JWT_SECRET"
    return None if settings.publish_keys else "REALTIME_PUBLISH_KEYS"


def _not_here(detail: str) -> Response:
    return to_response(problem(501, detail))


def _not_json() -> Response:
    return to_response(problem(415, f"Send the request as {JSON}", headers={"accept": JSON}))


def _answer(content: dict[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, _HEADERS)
