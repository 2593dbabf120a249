"""Health checks, metrics and the OpenAPI document: GET /api/health/…, /api/metrics and /api/openapi.json."""

import asyncio
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tidewire import __version__
from tidewire.delivery.hub import Hub
from tidewire.errors import Unavailable
from tidewire.http.api import to_response
from tidewire.protocol.problem import problem
from tidewire.settings.config import Settings
from tidewire.transports.base import Buffering

OPENAPI = Path(__file__).with_name("openapi.json")
PING_SECONDS = 2.0  # the time-out of a load balancer's health check is rarely longer

_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def routes(hub: Hub, settings: Settings) -> list[BaseRoute]:
    """Return the routes of the operations function."""

    async def live(request: Request) -> Response:
        return JSONResponse({"status": "live", "version": __version__}, headers=_HEADERS)

    async def ready(request: Request) -> Response:
        reasons = await _reasons(hub)
        about: dict[str, object] = {"transport": settings.transport, "version": __version__}
        if reasons and isinstance(hub.transport, Buffering) and not hub.draining:
            # Not 503: taken out of rotation, the instance could not accept the events that the fallback is for.
            outbox = hub.transport.backlog.events
            degraded = {"status": "degraded", **about, "reasons": reasons, "outbox": outbox}
            return JSONResponse(degraded, headers=_HEADERS)
        if reasons:
            return to_response(problem(503, "Not ready: " + "; ".join(reasons), headers={"retry-after": "1"}))
        warnings = {} if hub.advice is None else {"warnings": [hub.advice]}
        return JSONResponse({"status": "ready", **about, **warnings}, headers=_HEADERS)

    async def metrics(request: Request) -> Response:
        from tidewire.monitoring.prometheus import (  # prometheus-client is imported with the first scrape
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
    """Return why the instance is not ready; empty if it is."""
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
        reasons.append("accepted events are not in the log yet")
    return reasons


def _add(reasons: list[str], reason: str) -> None:
    """Add a reason once: the tail may fail for the same reason as an append."""
    if not any(named.endswith(reason) for named in reasons):
        reasons.append(reason)
