"""GET /api/events: streams, JSON pages and long polls.

It is a raw ASGI app, so that the hub itself drives `send`, without a task or a queue per subscriber.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from tidewire.delivery.hub import DRAINING, Hub
from tidewire.delivery.sessions import Session, Sessions
from tidewire.errors import TidewireError, TransportUnavailable, Unavailable
from tidewire.http.answers import Answer, respond
from tidewire.http.sinks import CONNECTION, Message, Send, StreamSink
from tidewire.monitoring.logs import REQUEST_ID, log_fields, request_id, streams
from tidewire.protocol.headers import SECURITY, check_single, combined, cors_headers, encode, preflight_headers
from tidewire.protocol.problem import Problem, from_error, problem
from tidewire.protocol.sse import CLOUDEVENTS, DATA, retry, rfc3339
from tidewire.protocol.subscribe_request import SubscribeRequest, parse_subscribe_request
from tidewire.security.signing import Signer
from tidewire.security.tokens import Identity, Verifier, subscriber_token
from tidewire.settings.config import Settings

logger = logging.getLogger(__name__)

PATH = "/api/events"
LAMBDA_CONTEXT = "x-amzn-lambda-context"
MAX_INVOCATION_SECONDS = 86_400.0  # longer than any; a later deadline was not written by Lambda
MAX_DEADLINE = 1e14  # ms since 1970: the year 5138
ENDING_SECONDS = 2.0  # before Lambda's deadline: the last frame has to reach the client, and the invocation to end

Scope = Mapping[str, Any]


class Receive(Protocol):
    """ASGI receive."""

    def __call__(self) -> Awaitable[Message]: ...


class StreamApp:
    """Answers GET /api/events with a stream of server-sent events, or with one JSON page."""

    def __init__(
        self, hub: Hub, settings: Settings, request_refresh: Callable[[], None] = lambda: None, *, streams: bool = True
    ) -> None:
        """Serve the hub's streams. `request_refresh` is called if the log could not be reached: its secret may be old.

        Without `streams` it serves only JSON pages, because a buffering host forwards only complete responses.
        """
        self._hub = hub
        self._streams = streams
        self._settings = settings
        self._request_refresh = request_refresh
        self._sessions = Sessions.from_settings(hub, settings)
        self._verifier = Verifier.from_settings(settings)
        self._signer = Signer.from_settings(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = await self._begin_for(scope, receive, send)
        if stream is None:
            return
        # A quiet connection keeps this frame, its session and its sink. The headers of a browser are another kilobyte
        # or two, cookies included, which uvicorn would keep as long.
        if isinstance(scope["headers"], list):
            scope["headers"].clear()
        try:
            await _disconnected(receive)
        except asyncio.CancelledError:
            if not stream.sink.stuck:
                raise
        finally:
            stream.close()

    async def _begin_for(self, scope: Scope, receive: Receive, send: Send) -> "_OpenStream | None":
        """Begin, and give up if the client goes meanwhile: a request that waits for the log counts in the limits."""
        task = asyncio.current_task()
        assert task is not None
        gone = False

        async def watch() -> None:
            nonlocal gone
            await _disconnected(receive)
            gone = True
            task.cancel()

        watching = asyncio.create_task(watch())
        try:
            return await self._begin(scope, send)
        except asyncio.CancelledError:
            if gone and not task.uncancel():
                return None
            raise
        finally:
            watching.cancel()

    async def _begin(self, scope: Scope, send: Send) -> "_OpenStream | None":
        """Respond: with an open stream, which is returned, or completely."""
        headers = combined(scope["headers"])
        cors = cors_headers(headers.get("origin"), self._settings.allowed_origins)
        connection = (scope.get("extensions") or {}).get(CONNECTION)
        answer = Answer(send, request_id(headers.get(REQUEST_ID)), scope["method"], PATH, connection)
        stream = None
        try:
            stream = await self._open_or_refuse(scope, headers, cors, answer)
        except asyncio.CancelledError:
            answer.abandon()
            raise
        finally:
            if stream is None:
                answer.note()  # a stream is logged when it ends
        return stream

    async def _open_or_refuse(
        self, scope: Scope, headers: Mapping[str, str], cors: Mapping[str, str], answer: Answer
    ) -> "_OpenStream | None":
        try:
            refused = self._refuse(scope["method"], headers) or self._refuse_stream(headers)
            if refused is None:
                check_single(scope["headers"])
                query = parse_subscribe_request(scope["query_string"], headers)
                identity = await self._identify(headers, query)
                if not _wants_page(headers):
                    return await self._open(identity, query, headers, cors, answer)
                page = await self._sessions.read_page(identity, query)
                await respond(answer, 200, {**_PAGE_HEADERS, **cors}, page.body())
                return None
        except TidewireError as error:
            if isinstance(error, TransportUnavailable):
                self._request_refresh()
            refused = from_error(error)
        except Exception:
            if answer.started:
                raise
            logger.exception("GET %s failed", PATH, extra=log_fields(request_id=answer.id))
            refused = problem(500, "The server failed; see the server's log")
        await respond(answer, refused.status, {**cors, **refused.headers}, refused.body)
        return None

    def _refuse(self, method: str, headers: Mapping[str, str]) -> Problem | None:
        if method == "OPTIONS" and "access-control-request-method" in headers:
            granted = preflight_headers(headers, self._settings.allowed_origins)
            if granted is None:
                return problem(403, "This origin is not in REALTIME_ALLOWED_ORIGINS")
            return Problem(204, {**SECURITY, **granted}, b"")
        if method != "GET":
            return problem(405, "This path takes GET", headers={"allow": "GET"})
        if self._hub.draining:
            raise Unavailable(DRAINING)
        return None

    def _refuse_stream(self, headers: Mapping[str, str]) -> Problem | None:
        if self._streams or _wants_page(headers):
            return None
        where = self._settings.stream_url
        detail = f"This address gives JSON pages and no stream: ask with Accept: application/json, or open {where}"
        return problem(406, detail if where != PATH else f"{detail} of the stream function (REALTIME_STREAM_URL)")

    async def _identify(self, headers: Mapping[str, str], query: SubscribeRequest) -> Identity:
        if not self._settings.auth_required:
            return Identity(query.user_id)
        if query.ticket is not None and "authorization" not in headers:
            return self._signer.redeem(query.ticket)
        return await self._verifier.verify(subscriber_token(headers))

    async def _open(
        self,
        identity: Identity,
        query: SubscribeRequest,
        headers: Mapping[str, str],
        cors: Mapping[str, str],
        send: Answer,
    ) -> "_OpenStream":
        if send.connection is not None and send.connection.scarce:
            send.connection.refuse_stream()
            raise Unavailable("This instance has no file descriptor for another stream; another instance may have one")
        format = CLOUDEVENTS if query.format == "cloudevents" else DATA
        limits = [seconds for seconds in (_time_left(headers), self._settings.stream_seconds) if seconds is not None]
        seconds = min(limits, default=None)
        session = await self._sessions.open(identity, query, format, seconds=seconds, wait_for_log=True)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": encode(_STREAM_HEADERS, cors)})
            # Clients of one lost instance must not come back at the same moment.
            wait = retry(round(self._settings.retry * 1000 * random.uniform(0.5, 1.5)))  # noqa: S311 — no secret
            await send({"type": "http.response.body", "body": wait, "more_body": True})
            sink = send.make_sink()
            session.start(sink)
        except BaseException:
            session.close()
            raise
        return _OpenStream(session, sink, send.id, send.began)


def _wants_page(headers: Mapping[str, str]) -> bool:
    accept = headers.get("accept", "").lower()
    return "application/json" in accept and "text/event-stream" not in accept


def _time_left(headers: Mapping[str, str]) -> float | None:
    """Return how long (s) AWS Lambda lets this invocation run, less the time that an ending takes; None elsewhere.

    The Lambda Web Adapter sends the invocation's context as JSON in a header of its own, and passes none of that name
    from the client. Elsewhere a client can only shorten its own stream with it.
    """
    context = headers.get(LAMBDA_CONTEXT)
    if context is None:
        return None
    try:
        deadline = _lambda_context.decode(context).deadline
    except (msgspec.DecodeError, RecursionError):  # too deep, or no number: not from Lambda
        return None
    if not 0 < deadline < MAX_DEADLINE:
        return None
    left = deadline / 1000 - time.time() - ENDING_SECONDS
    return max(left, 0.0) if left < MAX_INVOCATION_SECONDS else None


class _LambdaContext(msgspec.Struct):
    deadline: int | float  # ms since 1970


_lambda_context = msgspec.json.Decoder(_LambdaContext)


async def _disconnected(receive: Receive) -> None:
    """Return once the client has gone, or its response is complete."""
    while (await receive())["type"] != "http.disconnect":
        pass


class _OpenStream(NamedTuple):
    session: Session
    sink: StreamSink
    id: str
    began: float

    def close(self) -> None:
        """Close the session, and log the stream's duration and end reason."""
        self.session.close()
        if streams.isEnabledFor(logging.INFO):
            subscriber = self.session.subscriber
            seconds = time.time() - self.began
            reason = subscriber.ending or ("slow-consumer" if self.sink.stalled else "client-gone")
            fields = {"request_id": self.id, "opened": rfc3339(int(self.began * 1000)), "seconds": round(seconds, 3)}
            streams.info("stream", extra=log_fields(**fields, reason=reason, events=subscriber.sent))


_STREAM_HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache, no-transform",  # a proxy that gzips would also buffer
    "x-accel-buffering": "no",
    **SECURITY,
}
_PAGE_HEADERS = {
    "content-type": "application/json",
    "cache-control": "no-store",
    **SECURITY,
}
