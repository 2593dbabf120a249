"""POST /api/tokens, /api/tickets and /api/revocations, and GET /api/config: access for subscribers."""

import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tidewire.delivery.hub import Hub
from tidewire.delivery.revocations import Revocation
from tidewire.errors import Forbidden, Unavailable
from tidewire.http.api import JSON_HEADERS, media_type, read_body, to_response
from tidewire.model.event import is_user_id
from tidewire.model.permissions import REVOCATIONS, TOKENS, TYPE_OR_PATTERN, AllowedTypes, PublishKey
from tidewire.protocol import strict_json
from tidewire.protocol.headers import bearer
from tidewire.protocol.problem import problem
from tidewire.protocol.sse import rfc3339
from tidewire.protocol.subscribe_request import MAX_TYPES
from tidewire.security.publish_keys import PublishKeys, check_permission
from tidewire.security.signing import DEFAULT_TTL, TICKET_SECONDS, Signer
from tidewire.security.tokens import Verifier, subscriber_token
from tidewire.settings.config import Settings

MAX_BODY_BYTES = 64 * 1024  # a hundred types of maximum length, with white space

JSON = "application/json"


class _TokenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The body of POST /api/tokens; a token without a user receives only events for everyone."""

    user_id: str | None = None
    types: tuple[str, ...] | None = None
    ttl: int | float | None = None  # JSON Schema, and many JSON writers, count 60.0 as an integer


_token_request = msgspec.json.Decoder(_TokenRequest)


class _RevocationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The body of POST /api/revocations."""

    user_id: str


_revocation_request = msgspec.json.Decoder(_RevocationRequest)


def routes(hub: Hub, settings: Settings) -> list[BaseRoute]:
    """Return the routes of the token function."""
    keys = PublishKeys(settings.publish_keys)
    verifier = Verifier.from_settings(settings)
    signer = Signer.from_settings(settings)

    async def tokens(request: Request) -> Response:
        if (missing := _missing_for_tokens(settings)) is not None:
            return _not_implemented(f"This deployment issues no tokens: {missing} is not set")
        # Also with REALTIME_AUTH=none: the same secret may protect the streams of another function.
        key = keys.check(bearer(request.headers))
        check_permission(key, TOKENS)
        if media_type(request) != JSON:
            return _not_json()
        wanted = _parse(await _read(request), signer.max_ttl)
        types = _types(wanted, key)
        ttl = min(DEFAULT_TTL, signer.max_ttl) if wanted.ttl is None else int(wanted.ttl)
        return _json({"token": signer.token(wanted.user_id, types, ttl), "expiresIn": ttl})

    async def tickets(request: Request) -> Response:
        if not settings.auth_required:
            return _not_implemented(f"Authentication is off: {settings.stream_url} needs no ticket")
        identity = await verifier.verify(subscriber_token(request.headers))
        if not signer.enabled:
            return _not_implemented("This deployment issues no tickets: REALTIME_JWT_SECRET is not set")
        ticket = signer.ticket(identity)
        return _json({"ticket": ticket, "expiresIn": TICKET_SECONDS, "url": settings.stream_url})

    async def revocations(request: Request) -> Response:
        if not settings.auth_required:
            return _not_implemented("Authentication is off: there are no tokens to revoke")
        if settings.transport == "eventbridge":  # the target of its rule refuses reserved types
            return _not_implemented(
                "REALTIME_TRANSPORT=eventbridge carries no revocations: send them to a function that writes to the log"
            )
        check_permission(keys.check(bearer(request.headers)), REVOCATIONS)
        if media_type(request) != JSON:
            return _not_json()
        wanted = strict_json.decode(_revocation_request, await _read(request), name="The request")
        strict_json.check_all([("", _user_problems(wanted.user_id))])
        milliseconds = time.time_ns() // 1_000_000
        (receipt,) = await hub.dispatch([Revocation(wanted.user_id, milliseconds / 1000).event()])
        if not receipt.durable:  # it is in the outbox of this instance, and the others have not received it
            raise Unavailable(
                "The log is unavailable: until it is back, only this instance applies the revocation; retry"
            )
        return _json({"userId": wanted.user_id, "revokedBefore": rfc3339(milliseconds)}, 202)

    return [
        _config_route(settings),
        Route("/api/tokens", tokens, methods=["POST"]),
        Route("/api/tickets", tickets, methods=["POST"]),
        Route("/api/revocations", revocations, methods=["POST"]),
    ]


def _config_route(settings: Settings) -> Route:
    """Return the route of the public configuration; none of its fields may ever contain a secret."""
    content = {"auth": "required" if settings.auth_required else "none", "streamUrl": settings.stream_url}

    async def config(request: Request) -> Response:
        return _json(content)

    return Route("/api/config", config)


async def _read(request: Request) -> bytes:
    body = await read_body(request, MAX_BODY_BYTES)
    strict_json.check_json(body)
    return body


def _user_problems(user_id: str | None) -> list[tuple[str, str]]:
    good = user_id is None or is_user_id(user_id)
    return [] if good else [("/userId", "must be 1 to 256 characters without control characters")]


def _parse(body: bytes, max_ttl: int) -> _TokenRequest:
    wanted = strict_json.decode(_token_request, body, name="The request")
    found = _user_problems(wanted.user_id)
    if wanted.types is not None and not 0 < len(wanted.types) <= MAX_TYPES:
        found.append(("/types", f"must contain 1 to {MAX_TYPES} types: omit it to allow all"))
    for index, pattern in enumerate((wanted.types or ())[:MAX_TYPES]):
        if not TYPE_OR_PATTERN.fullmatch(pattern):
            found.append((f"/types/{index}", "must be an event type, or a prefix that ends in *"))
    if wanted.ttl is not None and not (1 <= wanted.ttl <= max_ttl and wanted.ttl == int(wanted.ttl)):
        found.append(
            ("/ttl", f"must be a whole number of seconds from 1 to {max_ttl:,} (a day, or REALTIME_RETENTION)")
        )
    strict_json.check_all([("", found)])
    return wanted


def _types(wanted: _TokenRequest, key: PublishKey) -> AllowedTypes | None:
    """Return the types of the token, None for all. Raises Forbidden if the key does not allow one of them."""
    if key.types is not None:
        if wanted.types is None:
            raise Forbidden("The publish key is limited to some types: list the types of the token")
        if refused := [pattern for pattern in wanted.types if not key.types.covers(pattern)]:
            raise Forbidden(f"The publish key does not allow {min(refused)!r}")
    return None if wanted.types is None else AllowedTypes.parse(wanted.types)


def _missing_for_tokens(settings: Settings) -> str | None:
    """Return the variable that tokens need and that is not set, None if there is none."""
    if settings.jwt_secret is None:
        return "REALTIME_JWT_SECRET"
    return None if settings.publish_keys else "REALTIME_PUBLISH_KEYS"


def _not_implemented(detail: str) -> Response:
    return to_response(problem(501, detail))


def _not_json() -> Response:
    return to_response(problem(415, f"Send the request as {JSON}", headers={"accept": JSON}))


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, JSON_HEADERS)
