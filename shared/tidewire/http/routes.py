"""Two kinds of routes that publishing and webhooks share: a traced POST, and the CloudEvents OPTIONS handshake."""

import re
from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidewire.delivery.hub import Hub
from tidewire.errors import InvalidRequest, TidewireError
from tidewire.protocol.problem import from_error
from tidewire.settings.variables import Rate

Endpoint = Callable[[Request], Awaitable[Response]]


def traced_post(hub: Hub, path: str, endpoint: Endpoint) -> Route:
    """Return a POST route that makes a span for each request, as a child of the request's `traceparent`.

    Without a tracer it is the plain route, at no cost per request.
    """
    tracer = hub.tracer
    if tracer is None:
        return Route(path, endpoint, methods=["POST"])

    async def trace(request: Request) -> Response:
        # Two traceparent lines make an invalid value (W3C Trace Context, section 3.2); tracestate lines are joined.
        headers = {name: ",".join(request.headers.getlist(name)) for name in request.headers}
        with tracer.answer(request.method, path, headers) as answering:
            request.scope["trace_id"] = answering.trace_id
            try:
                response = await endpoint(request)
            except TidewireError as error:
                answering.answered(from_error(error).status)
                raise
            except Exception:
                answering.answered(500)
                raise
            answering.answered(response.status_code)
            return response

    return Route(path, trace, methods=["POST"])


def cloudevents_handshake(path: str, rate: Rate | None, is_known: Callable[[Request], bool] = lambda _: True) -> Route:
    """Return the OPTIONS route that permits a CloudEvents sender to deliver here, at up to `rate` (None: no limit).

    Azure Event Grid sends no event before this handshake (CloudEvents, HTTP 1.1 Web Hooks for Event Delivery,
    section 4). It authorizes nothing: each POST still needs its key or signature. `is_known` returns whether the path
    of a request exists; if not, the response is 404.
    """
    allowed = "*" if rate is None else str(max(1, int(rate.maximum * 60 / rate.seconds)))  # requests per minute

    async def answer(request: Request) -> Response:
        if not is_known(request):
            raise HTTPException(404)
        origin = request.headers.get("webhook-request-origin")
        if origin is None:
            raise HTTPException(405, headers={"allow": "POST"})
        if not _ORIGIN.fullmatch(origin):
            raise InvalidRequest("WebHook-Request-Origin must be 1 to 253 visible ASCII characters")
        granted = {"webhook-allowed-origin": origin, "webhook-allowed-rate": allowed}
        return Response(status_code=200, headers={"allow": "POST", "cache-control": "no-store", **granted})

    return Route(path, answer, methods=["OPTIONS"])


_ORIGIN = re.compile(r"[\x21-\x7e]{1,253}")  # a DNS expression, which the response repeats
