"""What the Starlette functions share: errors as problem details, CORS, a bounded body."""

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
from tidewire.http.cors import cors_headers, preflight_headers
from tidewire.monitoring.logs import REQUEST_ID, request_id, requests, told
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.protocol.headers import SECURITY, check_single, combined, parse_media_type
from tidewire.protocol.problem import MEDIA_TYPE, Problem, from_error, problem
from tidewire.security.signed_rewrites import HEADER, is_signed
from tidewire.settings.config import Settings

logger = logging.getLogger(__name__)


ROOT = "/api/"  # what the path of every function begins with
QUIET = ("/api/health/", "/api/metrics")
UNSIGNED = "/api/health/"  # what asks for health stands beside the process, not in front of the site


def create_app(routes: Sequence[BaseRoute], settings: Settings) -> "ApiMiddleware":
    """Return an app of these routes in which every error is a problem+json answer.

    With `settings.netlify_secret` it takes only what came through the site's signed rewrite, and asks for health.
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
    app.router.redirect_slashes = False  # a client may make a GET of a redirected POST
    front = app if settings.netlify_secret is None else _require_signed(app, settings.netlify_secret)
    return ApiMiddleware(front, settings.allowed_origins)


def to_lambda(app: "ApiMiddleware") -> Any:
    """Return the handler for AWS Lambda's HTTP events."""
    from mangum import Mangum
    from mangum.adapter import DEFAULT_TEXT_MIME_TYPES

    # "auto" would run start-up and shutdown on every invocation; what is not known as text is sent as base64.
    return Mangum(_without_base_path(app), lifespan="off", text_mime_types=[*DEFAULT_TEXT_MIME_TYPES, MEDIA_TYPE])


def _without_base_path(app: ASGIApp) -> Any:
    """Return the app for paths that may begin with what API Gateway leaves there.

    An HTTP API with a named stage has `/prod/api/publish`, a custom domain with a mapping `/events/api/publish`; a REST
    API has no stage in its path, and `$default` none at all (API Gateway developer guide, payload format 2.0).
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        stage = scope["aws.event"].get("requestContext", {}).get("stage")
        if path.startswith(f"/{stage}{ROOT}"):  # of a stage named api too
            path = path.removeprefix(f"/{stage}")
        base, root, rest = path.partition(ROOT)
        await app({**scope, "path": root + rest if root else base}, receive, send)

    return serve


async def read_body(request: Request, maximum: int) -> bytes:
    """Return the body of at most `most` bytes, decompressed; raises ContentTooLarge before more than that is kept."""
    return decoded(await read_raw(request, maximum), request, maximum)


async def read_raw(request: Request, maximum: int) -> bytes:
    """Return the body of at most `most` bytes as it was sent; raises ContentTooLarge before more than that is kept."""
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
    """Return the content of a body in the coding that its request names, of at most `most` bytes.

    Raises ContentTooLarge before more than that is made of it, UnsupportedCoding, and InvalidRequest.
    """
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip"):  # RFC 9110 section 8.4.1.3: the same
        raise UnsupportedCoding("Send the body as it is or in gzip: no other Content-Encoding is taken")
    import zlib

    member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = member.decompress(body, maximum + 1)
    except zlib.error:
        raise InvalidRequest("The body is not the gzip that its Content-Encoding announces") from None
    if len(content) > maximum:
        raise _too_large(maximum)
    if not member.eof or member.unused_data:  # of several members each would cost a copy of the rest
        raise InvalidRequest("The body is not one whole gzip member")
    return content


def _too_large(maximum: int) -> ContentTooLarge:
    return ContentTooLarge(f"The body may have at most {maximum // 1024:,} KiB")


def media_type(request: Request) -> str | None:
    """Return the media type of the body, in lower case; None if there is none, or if its charset is not UTF-8."""
    return parse_media_type(request.headers.getlist("content-type"))


def to_response(answer: Problem) -> Response:
    """Return the Starlette response of a problem."""
    return Response(answer.body, answer.status, dict(answer.headers))


async def _on_error(warnings: ThrottledLog, request: Request, error: Exception) -> Response:
    if isinstance(error, Unavailable):
        fields = told(request_id=request.scope.get("request_id"))
        warnings.warn(f"answered 503: {error.detail}", extra=fields)
    if isinstance(error, TidewireError):
        return to_response(from_error(error))
    assert isinstance(error, HTTPException)
    details = {404: "There is nothing at this path", 405: "This path does not take this method"}
    detail = details.get(error.status_code, "The request cannot be answered")
    return to_response(problem(error.status_code, detail, headers=error.headers))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it; nothing was accepted, and nothing of ours failed


async def _on_failure(request: Request, error: Exception) -> Response:
    return to_response(problem(500, "The server failed; the log of the server says why"))


def _require_signed(app: ASGIApp, secret: str) -> ASGIApp:
    async def take_signed(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(UNSIGNED):
            signature = Request(scope).headers.get(HEADER)
            if not is_signed(signature, secret):
                detail = f"Only requests that come through the site are taken: {HEADER} is missing or does not hold"
                await to_response(problem(403, detail))(scope, receive, send)
                return
        await app(scope, receive, send)

    return take_signed


class ApiMiddleware:
    """Adds the CORS and the security headers and the request's id to every answer, errors included: without the first
    ones a page cannot even read the error. Tells the log of each request.
    """

    def __init__(self, app: ASGIApp, allowed: frozenset[str]) -> None:
        self._app = app
        self._allowed = allowed
        self._without_origin = _encoded({**SECURITY, **cors_headers(None, allowed)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = combined(scope["headers"])
        id = scope["request_id"] = request_id(headers.get(REQUEST_ID))
        status = 500  # where it fails before it answers

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID.encode(), id.encode())]
            await send(message)

        try:
            await self._respond(scope, receive, send_noted, headers)
        finally:
            _note(scope, id, status, time.perf_counter() - began)

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
            extra = _encoded({**SECURITY, **cors_headers(origin, self._allowed)})

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message.get("headers", ())}  # a page's own policy stands
                message["headers"] = [
                    *message.get("headers", ()),
                    *(header for header in extra if header[0] not in given),
                ]
            await send(message)

        await app(scope, receive, send_with_headers)


def _note(scope: Scope, id: str, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", None)  # as the code spells it: a path that was sent may hold anything
    # Probes ask every few seconds, and a page for a dozen files.
    level = logging.DEBUG if (route is not None and route.startswith(QUIET)) or route == "" else logging.INFO
    if requests.isEnabledFor(level):
        fields = {"request_id": id, "method": scope["method"], "route": route or "-", "status": status}
        if "trace_id" in scope:
            fields["trace_id"] = scope["trace_id"]
        requests.log(level, "request", extra=told(**fields, ms=round(seconds * 1000, 1)))


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
