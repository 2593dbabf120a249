"""POST /api/webhooks/{source}: verifies a provider's delivery, maps it to events, and appends them."""

import time
from collections.abc import Callable, Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tidewire.delivery.hub import Hub
from tidewire.errors import BadSignature, ContentTooLarge, EventRefused, InvalidRequest, MappingError, Unavailable
from tidewire.http.api import JSON_HEADERS, decoded, media_type, read_raw, to_response
from tidewire.http.publish import receipts_body
from tidewire.http.routes import cloudevents_handshake, traced_post
from tidewire.ingest.mapping.payload import FORM_MEDIA_TYPE, Payload
from tidewire.ingest.webhooks.scheme import Delivery
from tidewire.ingest.webhooks.sources import Receiver, read_sources
from tidewire.primitives.counters import WEBHOOKS
from tidewire.protocol.problem import problem
from tidewire.protocol.publish_request import MAX_BODY_BYTES
from tidewire.settings.config import Settings

PATH = "/api/webhooks/{source}"
UNKNOWN = "unknown"  # the label of every other source: a client must not create time series
_VERDICTS: Mapping[type[Exception], str] = {
    BadSignature: "bad-signature",
    MappingError: "does-not-fit",
    ContentTooLarge: "too-large",
    EventRefused: "refused",
    InvalidRequest: "not-json",
    Unavailable: "unavailable",
}


def routes(hub: Hub, settings: Settings, clock: Callable[[], float] = time.time) -> list[BaseRoute]:
    """Return the routes of the webhook function; reads realtime.toml and its secrets, raises SettingsError."""
    sources = read_sources(settings.config_file)
    receivers = {name: Receiver(source, settings.variables) for name, source in sources.items()}

    async def webhook(request: Request) -> Response:
        receiver = receivers.get(request.path_params["source"])
        if receiver is None:
            WEBHOOKS.add(UNKNOWN, "unknown-source")
            return to_response(problem(404, "realtime.toml has no source with this name"))
        name = receiver.source.name
        try:
            verdict, response = await _receive(request, receiver)
        except tuple(_VERDICTS) as error:
            WEBHOOKS.add(name, next(verdict for kind, verdict in _VERDICTS.items() if isinstance(error, kind)))
            raise
        WEBHOOKS.add(name, verdict)
        return response

    async def _receive(request: Request, receiver: Receiver) -> tuple[str, Response]:
        body = await read_raw(request, MAX_BODY_BYTES)
        # RFC 9110 section 5.3: a repeated header is one list, which no scheme accepts as a signature.
        headers = {key: ", ".join(request.headers.getlist(key)) for key in request.headers}
        receiver.verify(Delivery(headers, body, clock()))
        kind = media_type(request)
        if not _is_supported(request, kind):
            accepted = {"accept": f"application/json, {FORM_MEDIA_TYPE}"}
            detail = f"Configure the provider to send JSON (application/json) or a form ({FORM_MEDIA_TYPE})"
            return "not-json", to_response(problem(415, detail, headers=accepted))
        payload = Payload(decoded(body, request, MAX_BODY_BYTES), headers, is_form=kind == FORM_MEDIA_TYPE)
        challenge = receiver.source.scheme.challenge(payload)
        if challenge is not None:
            return "challenge", Response(msgspec.json.encode({"challenge": challenge}), 200, JSON_HEADERS)
        events = receiver.source.events(payload)
        receipts = await hub.dispatch(events) if events else []
        verdict = "ignored" if not events else "accepted"
        if events and all(receipt.duplicate for receipt in receipts):
            verdict = "duplicate"
        if receiver.source.scheme.is_shown(payload):
            return verdict, Response(b"", 200, {"cache-control": "no-store"})
        return verdict, Response(receipts_body(receipts), 202, JSON_HEADERS)

    return [
        traced_post(hub, PATH, webhook),
        cloudevents_handshake(PATH, None, lambda request: request.path_params["source"] in receivers),
    ]


def _is_supported(request: Request, kind: str | None) -> bool:
    """Return whether the body is JSON or a form; a request without a Content-Type is taken as JSON."""
    if kind is None:
        return "content-type" not in request.headers
    return kind in ("application/json", FORM_MEDIA_TYPE) or kind.endswith("+json")
