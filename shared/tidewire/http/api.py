"""The Starlette app of the short requests: errors as problem details, CORS, request log, limited bodies."""

import functools
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidewire.errors import ContentTooLarge, InvalidRequest, TidewireError, Unavailable, UnsupportedCoding
from tidewire.monitoring.logs import REQUEST_ID, log_fields, request_id, requests
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.protocol.headers import (
    SECURITY,
    check_single,
    combined,
    cors_headers,
    encode,
    parse_media_type,
    preflight_headers,
)
from tidewire.protocol.problem import Problem, from_error, problem
from tidewire.security.signed_rewrites import HEADER, is_signed
from tidewire.settings.config import Settings

logger = logging.getLogger(__name__)

QUIET = ("/api/health/", "/api/metrics")  # probed every few seconds: logged at DEBUG
JSON_HEADERS = {
    "content-type": "application/json",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}
UNSIGNED = "/api/health/"  # health checks reach the process directly, not through the site


def make_api(routes: Sequence[BaseRoute], settings: Settings) -> "ApiMiddleware":
    """Return an app of these routes in which every error is a problem+json response.

    With `settings.netlify_secret` the app refuses requests without the site's signature, except health checks.
    """
    on_error = functools.partial(_on_error, ThrottledLog(logger))
    app = Starlette(
        routes=routes,
        exception_handlers={
            TidewireError: on_error,
            HTTPException: on_error,
            ClientDisconnect: _on_disconnect,
            Exception: _on_failure,
        },
    )
    app.router.redirect_slashes = False  # a client may turn a redirected POST into a GET
    front = app if settings.netlify_secret is None else _require_signed(app, settings.netlify_secret)
    return ApiMiddleware(front, settings.allowed_origins)


async def read_body(request: Request, maximum: int) -> bytes:
    """Return the decompressed body. Raises ContentTooLarge before more than `maximum` bytes are kept."""
    return decoded(await read_raw(request, maximum), request, maximum)


async def read_raw(request: Request, maximum: int) -> bytes:
    """Return the body as it was sent. Raises ContentTooLarge before more than `maximum` bytes are kept."""
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length) > maximum:
        raise _too_large(maximum)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > maximum:
            raise _too_large(maximum)
    return bytes(body)


def decoded(body: bytes, request: Request, maximum: int) -> bytes:
    """Return the body without the Content-Encoding of its request.

    Raises ContentTooLarge before more than `maximum` bytes are decompressed, UnsupportedCoding, and InvalidRequest.
    """
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip"):  # RFC 9110 section 8.4.1.3: the same
        raise UnsupportedCoding("Send the body without a Content-Encoding, or with gzip")
    import zlib

    member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = member.decompress(body, maximum + 1)
    except zlib.error:
        raise InvalidRequest("The body is not gzip, although its Content-Encoding is gzip") from None
    if len(content) > maximum:
        raise _too_large(maximum)
    if not member.eof or member.unused_data:  # each further member would cost a copy of the rest
        raise InvalidRequest("The body is not exactly one complete gzip member")
    return content


def _too_large(maximum: int) -> ContentTooLarge:
    return ContentTooLarge(f"The body may have at most {maximum // 1024:,} KiB")


def media_type(request: Request) -> str | None:
    """Return the media type of the body in lower case, None if it is missing, malformed, or not UTF-8."""
    return parse_media_type(request.headers.getlist("content-type"))


def to_response(answer: Problem) -> Response:
    """Return the Starlette response of a problem."""
    return Response(answer.body, answer.status, dict(answer.headers))


async def _on_error(warnings: ThrottledLog, request: Request, error: Exception) -> Response:
    if isinstance(error, Unavailable):
        fields = log_fields(request_id=request.scope.get("request_id"))
        warnings.warn(f"answered 503: {error.detail}", extra=fields)
    if isinstance(error, TidewireError):
        return to_response(from_error(error))
    assert isinstance(error, HTTPException)
    details = {404: "There is nothing at this path", 405: "This path does not accept this method"}
    detail = details.get(error.status_code, "The request cannot be answered")
    return to_response(problem(error.status_code, detail, headers=error.headers))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # never sent: the client has disconnected, which is no failure of the server


async def _on_failure(request: Request, error: Exception) -> Response:
    return to_response(problem(500, "The server failed; see the server's log"))


def _require_signed(app: ASGIApp, secret: str) -> ASGIApp:
    async def check_signature(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(UNSIGNED):
            signature = Request(scope).headers.get(HEADER)
            if not is_signed(signature, secret):
                detail = f"Only requests through the site are accepted: {HEADER} is missing or not valid"
                await to_response(problem(403, detail))(scope, receive, send)
                return
        await app(scope, receive, send)

    return check_signature


class ApiMiddleware:
    """Adds the CORS and security headers and the request id to every response, and logs each request.

    Errors get the headers too: without CORS headers a page cannot read an error.
    """

    def __init__(self, app: ASGIApp, allowed: frozenset[str]) -> None:
        self._app = app
        self._allowed = allowed
        self._without_origin = encode({**SECURITY, **cors_headers(None, allowed)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = combined(scope["headers"])
        id = scope["request_id"] = request_id(headers.get(REQUEST_ID))
        status = 500  # logged if the app fails before it responds

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID.encode(), id.encode())]
            await send(message)

        try:
            await self._respond(scope, receive, send_with_id, headers)
        finally:
            _log(scope, id, status, time.perf_counter() - began)

    async def _respond(self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str]) -> None:
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            granted = preflight_headers(headers, self._allowed)
            answer = (
                Response(status_code=204, headers={**SECURITY, **granted})
                if granted is not None
                else to_response(problem(403, "This origin is not in REALTIME_ALLOWED_ORIGINS"))
            )
            await answer(scope, receive, send)
            return
        app = self._app
        try:
            if scope["method"] == "POST":
                check_single(scope["headers"])
        except InvalidRequest as error:
            app = to_response(from_error(error))
        origin = headers.get("origin")
        extra = self._without_origin
        if origin is not None:
            extra = encode({**SECURITY, **cors_headers(origin, self._allowed)})

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message.get("headers", ())}  # the console has a policy of its own
                message["headers"] = [
                    *message.get("headers", ()),
                    *(header for header in extra if header[0] not in given),
                ]
            await send(message)

        await app(scope, receive, send_with_headers)


def _log(scope: Scope, id: str, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", None)  # the template: the path that was sent may contain anything
    # "" is the route of the console, which loads a dozen files per page.
    level = logging.DEBUG if (route is not None and route.startswith(QUIET)) or route == "" else logging.INFO
    if requests.isEnabledFor(level):
        fields: dict[str, Any] = {"request_id": id, "method": scope["method"], "route": route or "-", "status": status}
        if "trace_id" in scope:
            fields["trace_id"] = scope["trace_id"]
        requests.log(level, "request", extra=log_fields(**fields, ms=round(seconds * 1000, 1)))
