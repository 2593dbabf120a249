"""GET /api/events: a raw ASGI app, so that the hub itself can drive `send` (no task and no queue a subscriber)."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from tidewire.delivery.hub import Hub
from tidewire.delivery.limits import Connections
from tidewire.delivery.revocations import GuardedHub
from tidewire.delivery.subscriber import Subscriber
from tidewire.errors import TidewireError, TransportUnavailable, Unavailable
from tidewire.http.answers import Answer, encode, respond
from tidewire.http.sinks import CONNECTION, Message, Send, StreamSink
from tidewire.model.audience import Interest
from tidewire.monitoring.logs import REQUEST_ID, log_fields, request_id, streams
from tidewire.protocol.headers import SECURITY, check_single, combined, cors_headers, preflight_headers
from tidewire.protocol.json_page import Page
from tidewire.protocol.problem import Problem, from_error, problem
from tidewire.protocol.sse import CLOUDEVENTS, DATA, ClosingReason, expiring, retry, rfc3339
from tidewire.protocol.subscribe_request import EventsQuery, parse_query
from tidewire.security.signing import Signer
from tidewire.security.tokens import Identity, Verifier, interest_of, subscriber_token
from tidewire.settings.config import Settings

logger = logging.getLogger(__name__)

PATH = "/api/events"
EXPIRING_SECONDS = 30.0  # before a token's end its stream is told, so that a client can come with the next one
AGAIN_SECONDS = 0.5  # between two tries to tell it
LAMBDA_CONTEXT = "x-amzn-lambda-context"
MAX_INVOCATION_SECONDS = 86_400.0  # longer than any; what is beyond was not written by Lambda
MAX_DEADLINE = 1e14  # ms since 1970: the year 5138
ENDING_SECONDS = 2.0  # before Lambda's deadline: the last frame has to reach the client, and the invocation to end
PAGE_SECONDS = 25.0  # how long a page may take, waiting included: proxies give up soon after

Scope = Mapping[str, Any]


class Receive(Protocol):
    """ASGI receive."""

    def __call__(self) -> Awaitable[Message]: ...


class StreamApp:
    """Answers GET /api/events with a stream of server-sent events, or with one JSON page."""

    def __init__(
        self, hub: Hub, settings: Settings, request_refresh: Callable[[], None] = lambda: None, *, streams: bool = True
    ) -> None:
        """Serve the hub's streams; `doubt` is told when the log could not be reached: its secrets may be old.

        Without `streams` only JSON pages are given: what is in front passes an answer on once it is whole.
        """
        self._hub = hub
        self._streams = streams
        self._settings = settings
        self._doubt = request_refresh
        self._connections = Connections(settings.max_connections, settings.max_user_connections)
        self._verifier = Verifier.from_settings(settings)
        self._signer = Signer.from_settings(settings)
        self._guard = hub if isinstance(hub, GuardedHub) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = await self._begin_for(scope, receive, send)
        if stream is None:
            return
        # All that a quiet connection keeps of ours is this frame, its subscriber and its sink. A browser's headers
        # are another kilobyte or two, cookies included, which uvicorn would keep as long.
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
        """Begin, and give up where the client goes meanwhile: what waits for the log holds its place in the limits."""
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
        """Answer the request: with an open stream, which is returned, or with what is sent already."""
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
                answer.note()  # a stream is told of when it ends
        return stream

    async def _open_or_refuse(
        self, scope: Scope, headers: Mapping[str, str], cors: Mapping[str, str], answer: Answer
    ) -> "_OpenStream | None":
        try:
            refused = self._refuse(scope["method"], headers) or self._refuse_stream(headers)
            if refused is None:
                check_single(scope["headers"])
                return await self._answer(scope["query_string"], headers, cors, answer)
        except TidewireError as error:
            if isinstance(error, TransportUnavailable):
                self._doubt()
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
            raise Unavailable("This instance is going away; come back, and another one will answer")
        return None

    def _refuse_stream(self, headers: Mapping[str, str]) -> Problem | None:
        if self._streams or _wants_page(headers):
            return None
        where = self._settings.stream_url
        detail = f"This address gives JSON pages and no stream: ask with Accept: application/json, or open {where}"
        return problem(406, detail if where != PATH else f"{detail} of the stream function (REALTIME_STREAM_URL)")

    async def _answer(
        self, query_string: bytes, headers: Mapping[str, str], cors: Mapping[str, str], send: Answer
    ) -> "_OpenStream | None":
        query = parse_query(query_string, headers)
        identity = await self._identify(headers, query)
        interest = interest_of(identity, query.types)
        if _wants_page(headers):
            await self._page(interest, query, identity, cors, send)
            return None
        return await self._open(interest, query, identity, cors, send, _time_left(headers))

    async def _identify(self, headers: Mapping[str, str], query: EventsQuery) -> Identity:
        if not self._settings.auth_required:
            return Identity(query.user_id)
        if query.ticket is not None and "authorization" not in headers:
            return self._signer.redeem(query.ticket)
        return await self._verifier.verify(subscriber_token(headers))

    async def _open(
        self,
        interest: Interest,
        query: EventsQuery,
        identity: Identity,
        cors: Mapping[str, str],
        send: Answer,
        time_left: float | None,
    ) -> "_OpenStream":
        if send.connection is not None and send.connection.scarce:
            send.connection.refuse_stream()
            raise Unavailable("This instance has no files left for one more stream; another one may have")
        format = CLOUDEVENTS if query.format == "cloudevents" else DATA
        self._connections.enter(interest.user_id)
        try:
            subscriber = await self._hub.add(interest, query.start, format, patient=True)
        except BaseException:
            self._connections.leave(interest.user_id)
            raise
        try:
            self._admit(subscriber, identity)
            await send({"type": "http.response.start", "status": 200, "headers": encode(_STREAM_HEADERS, cors)})
            # Clients of one lost instance must not come back at the same moment.
            wait = retry(round(self._settings.retry * 1000 * random.uniform(0.5, 1.5)))  # noqa: S311 — no secret
            await send({"type": "http.response.body", "body": wait, "more_body": True})
            sink = send.make_sink()
            subscriber.start(sink)
        except BaseException:
            self._hub.remove(subscriber)
            self._connections.leave(interest.user_id)
            raise
        lifetime = self._end_in_time(subscriber, identity, time_left)
        return _OpenStream(self._hub, self._connections, subscriber, sink, lifetime, send.id, send.began)

    def _admit(self, subscriber: Subscriber, identity: Identity) -> None:
        if self._guard is not None:
            self._guard.admit(subscriber, identity.issued_at)

    def _end_in_time(self, subscriber: Subscriber, identity: Identity, time_left: float | None) -> "_Lifetime | None":
        """End the stream at its lifetime, before the platform would, or when its token ends, whichever is first."""
        ends: list[tuple[float, ClosingReason]] = [] if time_left is None else [(time_left, "max-age")]
        if self._settings.stream_seconds is not None:
            ends.append((self._settings.stream_seconds, "max-age"))
        if identity.expires_at is not None:
            ends.append((self._left(identity.expires_at), "token-expired"))
        if not ends:
            return None
        token = float("inf") if identity.expires_at is None else ends[-1][0]
        return _Lifetime(subscriber, *min(ends), token)

    def _left(self, expires_at: float) -> float:
        left = expires_at - time.time()
        return left if left > 0 else max(left + self._settings.jwt_leeway, 0.0)  # taken within the leeway

    async def _page(
        self, interest: Interest, query: EventsQuery, identity: Identity, cors: Mapping[str, str], send: Send
    ) -> None:
        wait = query.wait if identity.expires_at is None else min(query.wait, self._left(identity.expires_at))
        page = Page(query.format, query.start.cursor)
        try:
            async with asyncio.timeout(PAGE_SECONDS):
                if query.wait:
                    self._connections.enter(interest.user_id)
                    try:
                        await self._wait_for_page(page, interest, query, identity, wait)
                    finally:
                        self._connections.leave(interest.user_id)
                else:
                    await self._read_page(page, interest, query, identity)
        except TimeoutError:
            if not page.cut_off():  # else what was read is answered, and the next request goes on from there
                raise Unavailable("The log did not answer in time") from None
        if page.cursor is None:  # sent away while it was reading; a page without a cursor would lose the client's place
            if self._guard is not None:
                self._guard.revocations.check(interest.user_id, identity.issued_at)
            raise Unavailable("This instance is going away; come back, and another one will answer")
        await respond(send, 200, {**_PAGE_HEADERS, **cors}, page.body())

    async def _read_page(self, page: Page, interest: Interest, query: EventsQuery, identity: Identity) -> None:
        filling = asyncio.create_task(page.filled_by(self._hub.replay(interest, query.start, page, page)))
        filling.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, if nobody waits any more
        try:
            if self._guard is not None:  # beside the page's own look at the heads: both are made in one round trip
                try:
                    await self._guard.refresh()
                except BaseException:
                    page.withhold()  # it is not known whether the token still holds
                    raise
                self._guard.revocations.check(interest.user_id, identity.issued_at)
            await filling
        finally:
            filling.cancel()

    async def _wait_for_page(
        self, page: Page, interest: Interest, query: EventsQuery, identity: Identity, wait: float
    ) -> None:
        async with self._hub.subscribe(interest, query.start, page) as subscriber:
            self._admit(subscriber, identity)
            subscriber.start(page)
            await page.replayed.wait()
            with contextlib.suppress(TimeoutError):  # nothing came: the cursor alone is an answer
                async with asyncio.timeout(wait):
                    await page.settled.wait()


def _wants_page(headers: Mapping[str, str]) -> bool:
    accept = headers.get("accept", "").lower()
    return "application/json" in accept and "text/event-stream" not in accept


def _time_left(headers: Mapping[str, str]) -> float | None:
    """Return how long (s) AWS Lambda lets this invocation run, less what an ending takes; None elsewhere.

    The Lambda Web Adapter puts the invocation's context, as JSON, into a header of its own, and lets none of the
    client's pass. Elsewhere a client could shorten its own stream with it, and no other.
    """
    context = headers.get(LAMBDA_CONTEXT)
    if context is None:
        return None
    try:
        deadline = _lambda_context.decode(context).deadline
    except (msgspec.DecodeError, RecursionError):  # too deep, or no number: not Lambda's
        return None
    if not 0 < deadline < MAX_DEADLINE:
        return None
    left = deadline / 1000 - time.time() - ENDING_SECONDS
    return max(left, 0.0) if left < MAX_INVOCATION_SECONDS else None


class _LambdaContext(msgspec.Struct):
    deadline: int | float  # ms since 1970


_lambda_context = msgspec.json.Decoder(_LambdaContext)


async def _disconnected(receive: Receive) -> None:
    """Return once the client has gone, or its answer is complete."""
    while (await receive())["type"] != "http.disconnect":
        pass


class _OpenStream(NamedTuple):
    hub: Hub
    connections: Connections
    subscriber: Subscriber
    sink: StreamSink
    lifetime: "_Lifetime | None"
    id: str
    began: float

    def close(self) -> None:
        """Forget the subscriber: its client has gone, or its stream has ended. Tell the log of its life."""
        if self.lifetime is not None:
            self.lifetime.timer.cancel()
        self.hub.remove(self.subscriber)
        self.connections.leave(self.subscriber.interest.user_id)
        if streams.isEnabledFor(logging.INFO):
            seconds = time.time() - self.began
            reason = self.subscriber.ending or ("slow-consumer" if self.sink.stalled else "client-gone")
            events = self.subscriber.sent
            fields = {"request_id": self.id, "opened": rfc3339(int(self.began * 1000)), "seconds": round(seconds, 3)}
            streams.info("stream", extra=log_fields(**fields, reason=reason, events=events))


class _Lifetime:
    """Ends a stream in time, and tells its client before its token ends; one timer at a time."""

    __slots__ = ("_end", "_loop", "_reason", "_subscriber", "_token", "timer")

    def __init__(self, subscriber: Subscriber, seconds: float, reason: ClosingReason, token: float) -> None:
        """The stream ends after `seconds`; its token does after `token`, which may be later, or never."""
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._subscriber = subscriber
        self._reason = reason
        self._end, self._token = now + seconds, now + token
        warning = max(now, self._token - EXPIRING_SECONDS)
        self.timer = self._loop.call_at(warning, self._warn) if warning < self._end else self._last()

    def _warn(self) -> None:
        now = self._loop.time()
        left = self._token - now
        # One that still replays, or takes nothing now, is told a little later: after `ready`, between two events.
        told = left <= 0 or self._subscriber.tell(expiring(max(round(left), 1)))
        again = now + AGAIN_SECONDS
        self.timer = self._last() if told or again >= self._end else self._loop.call_at(again, self._warn)

    def _last(self) -> asyncio.TimerHandle:
        return self._loop.call_at(self._end, self._subscriber.close, self._reason)


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
