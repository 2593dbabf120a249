"""OPTIONS: a sender of CloudEvents asks whether it may send here (HTTP 1.1 Web Hooks for Event Delivery, section 4).

Azure Event Grid sends nothing before that is granted. It is no authorization: each POST needs its key or signature.
"""

import re
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidewire.errors import InvalidRequest
from tidewire.settings.variables import Rate

_ORIGIN = re.compile(r"[\x21-\x7e]{1,253}")  # a DNS expression, which is sent back as it is


def handshake(path: str, rate: Rate | None, is_known: Callable[[Request], bool] = lambda _: True) -> Route:
    """Return the route of OPTIONS for a path that takes CloudEvents, up to `rate` (None: as many as are sent).

    `is_known`: whether the path of a request leads anywhere; the answer is 404 otherwise.
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
