"""Health, metrics and the API's description."""

import asyncio
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tidewire.delivery.hub import Hub
from tidewire.errors import Unavailable
from tidewire.http.api import to_response
from tidewire.protocol.problem import problem
from tidewire.settings.config import Settings
from tidewire.transports.base import Buffering

OPENAPI = Path(__file__).with_name("openapi.json")
PING_SECONDS = 2.0  # a load balancer's own time-out is rarely longer

_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def routes(hub: Hub, settings: Settings) -> list[BaseRoute]:
    """Return the routes of this function."""

    async def live(request: Request) -> Response:
        return JSONResponse({"status": "live"}, headers=_HEADERS)

    async def ready(request: Request) -> Response:
        reasons = await _reasons(hub)
        if reasons and isinstance(hub.transport, Buffering) and not hub.draining:
            # It serves publishers and subscribers: to take it out of rotation would undo what the fallback is for.
            degraded = {"status": "degraded", "transport": settings.transport, "reasons": reasons}
            return JSONResponse({**degraded, "outbox": hub.transport.backlog.events}, headers=_HEADERS)
        if reasons:
            return to_response(problem(503, "Not ready: " + "; ".join(reasons), headers={"retry-after": "1"}))
        warnings = {} if hub.advice is None else {"warnings": [hub.advice]}
        return JSONResponse({"status": "ready", "transport": settings.transport, **warnings}, headers=_HEADERS)

    async def metrics(request: Request) -> Response:
        from tidewire.monitoring.prometheus import (  # prometheus-client only where it is asked for
            CONTENT_TYPE,
            exposition,
        )

        return Response(await exposition(hub), headers={**_HEADERS, "content-type": CONTENT_TYPE})

    async def openapi(request: Request) -> Response:
        return Response(OPENAPI.read_bytes(), headers={**_HEADERS, "content-type": "application/json"})

    return [
        Route("/api/health/live", live),
        Route("/api/health/ready", ready),
        Route("/api/metrics", metrics),
        Route("/api/openapi.json", openapi),
    ]


async def _reasons(hub: Hub) -> list[str]:
    reasons = []
    if hub.draining:
        reasons.append("the instance is draining")
    if (trouble := hub.tail_trouble) is not None:
        reasons.append(trouble)
    try:
        async with asyncio.timeout(PING_SECONDS):
            await hub.transport.ping()
    except TimeoutError:
        reasons.append(f"the transport did not answer within {PING_SECONDS:g} s")
    except Unavailable as error:
        _add(reasons, error.detail)
    if hub.refusal is not None:
        _add(reasons, hub.refusal)
    if isinstance(hub.transport, Buffering) and hub.transport.backlog.events:
        reasons.append("events that were accepted are not in the log yet")
    return reasons


def _add(reasons: list[str], reason: str) -> None:
    """Name a reason once: the tail's may be the same as that of an append."""
    if not any(named.endswith(reason) for named in reasons):
        reasons.append(reason)
