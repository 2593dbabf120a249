"""POST /api/publish: appends events, and returns a receipt for each."""

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tidewire.delivery.hub import Hub
from tidewire.delivery.limits import PublishRate
from tidewire.http.api import JSON_HEADERS, media_type, read_body, to_response
from tidewire.http.routes import cloudevents_handshake, traced_post
from tidewire.model.cursor import MAX_LENGTH, Cursor
from tidewire.model.event import Event
from tidewire.protocol import publish_request
from tidewire.protocol.headers import bearer
from tidewire.protocol.problem import problem
from tidewire.protocol.publish_request import BATCHED, STRUCTURED
from tidewire.security.publish_keys import PublishKeys, check_types
from tidewire.settings.config import Settings
from tidewire.transports.base import Receipt

PATH = "/api/publish"


def routes(hub: Hub, settings: Settings) -> list[BaseRoute]:
    """Return the routes of the publish function."""
    keys = PublishKeys(settings.publish_keys)
    rate = PublishRate(settings.publish_rate, hub.transport)

    async def publish(request: Request) -> Response:
        key = keys.check(bearer(request.headers)) if settings.auth_required else None
        events = await _events(request)
        if events is None:
            accepted = ", ".join(_JSON_TYPES)
            detail = f"Send the event with one of these as Content-Type: {accepted}"
            return to_response(problem(415, detail, headers={"accept": accepted}))
        if key is not None:
            check_types(key, events)
        await rate.take(key, hub.partitions.copies(events))
        receipts = await hub.dispatch(events)
        return Response(receipts_body(receipts), 202, JSON_HEADERS)

    return [traced_post(hub, PATH, publish), cloudevents_handshake(PATH, settings.publish_rate)]


_JSON_TYPES = ("application/json", STRUCTURED, BATCHED)


async def _events(request: Request) -> list[Event] | None:
    """Return the events of the request, None if its content type is not supported."""
    kind = media_type(request)
    if kind in (STRUCTURED, BATCHED) or any(name.startswith("ce-") for name in request.headers):
        return await _cloudevents(request, kind)
    return await _plain(request) if kind == "application/json" else None


async def _cloudevents(request: Request, kind: str | None) -> list[Event] | None:
    """Return the events of a request with a type or a header of CloudEvents."""
    from tidewire.protocol import cloudevents  # a function that receives none starts without it

    is_binary = "ce-specversion" in request.headers
    if kind in (STRUCTURED, BATCHED):
        cloudevents.check_headers(request.headers)
        return cloudevents.parse_structured(await _read(request), batched=kind == BATCHED)
    if is_binary and kind is not None and kind.endswith(("/json", "+json")):
        return cloudevents.parse_binary(request.headers, await _read(request))
    if is_binary and "content-type" not in request.headers and not await _read(request):
        return cloudevents.parse_binary(request.headers, b"null")  # an event without data
    if kind != "application/json":
        return None
    cloudevents.check_headers(request.headers)
    return await _plain(request)


async def _plain(request: Request) -> list[Event]:
    body = await _read(request)
    return publish_request.parse_events(body, publish_request.idempotency_key(request.headers.get("idempotency-key")))


async def _read(request: Request) -> bytes:
    return await read_body(request, publish_request.MAX_BODY_BYTES)


def receipts_body(receipts: Sequence[Receipt]) -> bytes:
    """Return the JSON body of the response to a publish."""
    return msgspec.json.encode({"events": [_receipt(receipt) for receipt in receipts]})


def _receipt(receipt: Receipt) -> dict[str, Any]:
    # Time 0: a reader starts at the head of a partition that the cursor does not name.
    cursor = None if receipt.positions is None else Cursor(receipt.positions).encode(time=0)
    if cursor is not None and len(cursor) > MAX_LENGTH:  # a batch that was appended under several partition schemes
        cursor = None
    fields: dict[str, Any] = {"id": receipt.id, "cursor": cursor, "duplicate": receipt.duplicate}
    return fields if receipt.durable else {**fields, "durable": False}
