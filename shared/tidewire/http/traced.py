"""Requests as spans, where traces are configured."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidewire.delivery.hub import Hub
from tidewire.errors import TidewireError
from tidewire.protocol.problem import from_error

Endpoint = Callable[[Request], Awaitable[Response]]


def traced(hub: Hub, path: str, endpoint: Endpoint) -> Route:
    """Return the route of a POST; each of its requests is a span, below the one that its `traceparent` names.

    Where nothing is traced it is the plain route, and costs nothing.
    """
    tracer = hub.tracer
    if tracer is None:
        return Route(path, endpoint, methods=["POST"])

    async def trace(request: Request) -> Response:
        # A header that stands twice names no span (W3C Trace Context, section 3.2); of tracestate all lines count.
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
