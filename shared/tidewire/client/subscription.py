"""A subscription: consecutive connections that yield one stream of events without a hole."""

import asyncio
import contextlib
import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Literal, Self

import httpx
import msgspec

from tidewire.client.decoder import Decoder, Frame, FrameTooLarge
from tidewire.client.items import Gap, Item, State
from tidewire.client.responses import NO_STREAM, End, Page, Refused, check, control, event_of, stream_url
from tidewire.client.retry import CLOSING_JITTER, backoff, expiry_of, renew_in
from tidewire.client.token_renewal import Renewal, Token, fetch
from tidewire.errors import Unauthorized

FIRST_BYTE = 12.0  # seconds; a cold function needs a few, so a longer silence means a proxy that buffers
HEARTBEAT_SLACK = 2.0  # seconds of network delay on top of two heartbeats
STABLE = 5.0  # seconds; a shorter connection counts as a failure, so a server that accepts and crashes gets backoff
MAX_RETRY = 60.0  # seconds; the upper limit of `retry:`
POLL_WAIT = 20  # seconds that a page waits for an event; the server's maximum
STREAM_AGAIN = 300.0  # seconds of polling before the next attempt to stream: the network may have changed
BLOCKED_AFTER = 3  # consecutive attempts without a byte before polling starts
TOKEN_SECONDS = 30.0  # time-out of the caller's token function


def subscribe(
    url: str,
    token: Token = "",
    types: Iterable[str] = (),
    *,
    user_id: str | None = None,
    start: str = "now",
    cursor: str = "",
    heartbeat: float = 15.0,
    on_state: Callable[[State], None] | None = None,
    http: httpx.AsyncClient | None = None,
) -> "Subscription":
    """Return a subscription to `url`, the address of GET /api/events; iterating over it yields events and gaps.

    If `url` serves JSON pages only, as on Lambda, the stream is opened at the address in /api/config next to it. The
    connection opens at the first iteration. The subscription never ends by itself: it resumes after its last item, with
    jittered backoff, and polls while streams do not get through. It reads only as fast as its caller iterates.

    `token` may be a function, also an async one: it is called for each connection and before a token expires; the new
    connection resumes without a hole. `start` is `now`, `earliest` or an RFC 3339 time, used without a `cursor`.
    `heartbeat` is the server's, in seconds. `user_id` is for servers without authentication.

    Iterating raises Unauthorized (401, after a second call of a token function; with Retry-After it waits instead,
    because the token is not valid yet), Forbidden (403), InvalidRequest (400) and SubscriptionStopped (204): these
    responses are final. Exceptions of `token` and `on_state` propagate.
    """
    return Subscription(url, token, types, user_id, start, cursor, heartbeat, on_state, http)


class Subscription:
    """An async iterator of items; `cursor` is its position. `aclose`, or leaving `async with`, ends the connection."""

    def __init__(
        self,
        url: str,
        token: Token,
        types: Iterable[str],
        user_id: str | None,
        start: str,
        cursor: str,
        heartbeat: float,
        on_state: Callable[[State], None] | None,
        http: httpx.AsyncClient | None,
    ) -> None:
        self.cursor = cursor
        self.state = State("closed", "new")
        self._url = httpx.URL(url)
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise ValueError("url must be an http:// or https:// address")
        self._stream_url = self._url  # until /api/config names another one
        query = {"format": "cloudevents", "types": ",".join(types), "userId": user_id or ""}
        self._query = {name: value for name, value in query.items() if value}
        self._source = token
        self._start = start
        self._silence = 2 * heartbeat + HEARTBEAT_SLACK
        self._on_state = on_state
        self._http = http
        self._mode: Literal["stream", "poll"] = "stream"
        self._failures = 0  # consecutive; the exponent of the backoff
        self._silent_attempts = 0  # consecutive attempts without a byte, or ended by silence
        self._has_bytes = False  # this attempt received a byte
        self._live_at: float | None = None
        self._retry = 0.0
        self._refused_before = False  # the last answer was a 401
        self._renewal = Renewal()
        self._token = ""
        self._items = self._run()

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Item:
        return await anext(self._items)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the connection; another subscription can resume from `cursor`."""
        await self._items.aclose()

    # The loop: connect, evaluate the end, wait.

    async def _run(self) -> AsyncGenerator[Item, None]:
        own = self._http is None
        http = self._http or httpx.AsyncClient(timeout=None)  # noqa: S113 — this module has time-outs made for streams
        reason = "start"
        try:
            while True:
                self._enter(State("connecting", reason, self._mode))
                attempt, end = self._attempt(http), End("lost", "lost")
                try:
                    async for item in attempt:
                        yield item
                except _Ended as ended:
                    end = ended.end
                finally:
                    self._renewal.stop()
                    await attempt.aclose()  # or the stream of the old token would stay open
                reason = end.reason
                await self._rest(end)
        finally:
            if own:
                await http.aclose()
            self._enter(State("closed", "closed", self._mode))

    async def _attempt(self, http: httpx.AsyncClient) -> AsyncGenerator[Item, None]:
        """Yield the items of one connection. Raises _Ended at its end, or the error that ends the subscription."""
        self._has_bytes, self._live_at = False, None
        connection = self._poll if self._mode == "poll" else self._stream
        self._token = await self._next_token()
        try:
            async with contextlib.aclosing(connection(http)) as items:
                async for item in items:
                    yield item
        except Refused as refused:
            again = isinstance(refused.error, Unauthorized) and callable(self._source) and not self._refused_before
            self._refused_before = isinstance(refused.error, Unauthorized)
            if not again:
                raise refused.error from None
            raise _Ended(End("again", "refused", str(refused.error))) from None
        except TimeoutError:
            raise _Ended(End("silent", "silent")) from None
        except (httpx.RequestError, FrameTooLarge, msgspec.DecodeError) as error:
            raise _Ended(End("lost", "lost", type(error).__name__)) from None  # its text may hold event data

    async def _rest(self, end: End) -> None:
        if end.kind in ("renewed", "again"):
            return
        stable = self._live_at is not None and _now() - self._live_at >= STABLE
        if stable:
            self._failures = 0
        if end.kind == "closing" and stable:
            delay = random.uniform(0, CLOSING_JITTER)  # noqa: S311 — no secret
        else:
            if end.kind == "early":
                self._renewal.fresh = self._token  # a new one would come from the same clock, and be as early
            delay = backoff(self._failures, max(self._retry, end.floor))
            self._choose_mode(end)
            self._failures += 1
        self._enter(State("waiting", end.reason, self._mode, delay, end.detail))
        await asyncio.sleep(delay)

    def _choose_mode(self, end: End) -> None:
        """Switch to polling after signs of a proxy that buffers or blocks streams: short responses get through."""
        if self._mode == "poll":
            self._mode, self._silent_attempts = "stream", 0  # the page failed too, so the server is unavailable
            return
        nothing = not self._has_bytes and end.kind in ("lost", "silent")
        if nothing or end.kind == "refused":
            self._stream_url = self._url  # fetch the address again: it may have changed
        self._silent_attempts = self._silent_attempts + 1 if nothing or end.kind == "silent" else 0
        buffered = end.kind == "silent" and (nothing or self._silent_attempts > 1)
        if buffered or self._silent_attempts >= BLOCKED_AFTER:
            self._mode = "poll"

    # One connection.

    async def _stream(self, http: httpx.AsyncClient) -> AsyncGenerator[Item, None]:
        async with asyncio.timeout(FIRST_BYTE):
            response = await http.send(self._request(http, "text/event-stream"), stream=True)
            if response.status_code == NO_STREAM and self._stream_url == self._url:
                await response.aclose()
                self._stream_url = await stream_url(http, self._url)
                response = await http.send(self._request(http, "text/event-stream"), stream=True)
        async with contextlib.aclosing(response):
            await self._accept(response, "text/event-stream")
            decoder, has_content = Decoder(self.cursor), False
            async for chunk in self._chunks(response):
                frames = decoder.feed(chunk)
                if decoder.retry is not None:
                    self._retry = min(decoder.retry / 1000, MAX_RETRY)
                for frame in frames:
                    # The first id comes before a gap's announcement. If it were kept and the connection were lost right
                    # there, the next connection would resume after the gap, and nothing would announce it.
                    if frame.data is None and not has_content:
                        continue
                    has_content = True
                    item = self._item(frame)
                    self.cursor = frame.last_event_id
                    if item is not None:
                        yield item
        raise _Ended(End("lost", "lost"))

    async def _chunks(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """Yield the body in chunks. Raises TimeoutError after too long a silence, _Ended when a new token arrives."""
        chunks = response.aiter_bytes()
        while True:
            if self._renewal.is_done():
                raise _Ended(End("renewed", "renewed"))
            seconds = self._silence if self._has_bytes else FIRST_BYTE
            try:
                async with asyncio.timeout(seconds) as timeout:
                    self._renewal.timeout = timeout
                    chunk = await anext(chunks, None)
            except TimeoutError:
                if self._renewal.is_done():
                    continue
                raise
            if chunk is None:
                return
            self._has_bytes = True
            yield chunk

    def _item(self, frame: Frame) -> Item | None:
        """Return the item of a frame, None if it has none. Raises _Ended at `realtime.closing`, msgspec.DecodeError."""
        if frame.data is None:
            return None
        if not frame.type.startswith("realtime."):
            return event_of(frame.data, frame.last_event_id, self.state.name != "live")
        fields = control(frame.data)
        match frame.type:
            case "realtime.ready":
                self._ready(fields.replayed, fields.recovered)
            case "realtime.gap":
                return Gap(fields.reason or "unknown", frame.last_event_id)
            case "realtime.expiring":
                self._renew_before(time.time() + fields.seconds)
            case "realtime.closing":
                raise _Ended(End("closing", fields.reason or "closing"))
            case _:
                pass  # from a newer server: control events may be ignored
        return None

    async def _poll(self, http: httpx.AsyncClient) -> AsyncGenerator[Item, None]:
        """Yield the items of JSON pages instead of a stream, for `STREAM_AGAIN` seconds."""
        deadline, recovered, replayed = _now() + STREAM_AGAIN, True, 0
        while _now() < deadline:
            if self._renewal.is_done():
                raise _Ended(End("renewed", "renewed"))
            live, began = self.state.name == "live", _now()
            wait = POLL_WAIT if live else 0
            async with asyncio.timeout(wait + FIRST_BYTE):
                response = await http.send(self._request(http, "application/json", wait), stream=True)
                async with contextlib.aclosing(response):
                    self._has_bytes = True
                    await self._accept(response, "application/json")
                    page = msgspec.json.decode(await response.aread(), type=Page)
            if page.gap is not None:
                recovered = False
                yield Gap(
                    page.gap.reason or "unknown", self.cursor
                )  # not the page's end: a resume would skip its events
            last = len(page.events) - 1
            for index, text in enumerate(page.events):
                cursor = page.cursor if index == last else self.cursor
                event = event_of(bytes(text), cursor, not live)
                if index == last:
                    self.cursor = page.cursor
                yield event
            self.cursor = page.cursor
            if not live:
                replayed += len(page.events)
                if not page.events and page.gap is None and page.complete:
                    self._ready(replayed, recovered)
            elif not page.events and _now() - began < 1.0:
                await asyncio.sleep(random.uniform(2.0, 3.0))  # noqa: S311 — the server cannot hold requests
        self._mode = "stream"
        raise _Ended(End("again", "stream-again"))

    def _request(self, http: httpx.AsyncClient, accept: str, wait: int | None = None) -> httpx.Request:
        headers = {"accept": accept, "accept-encoding": "identity", "cache-control": "no-store"}
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        query = dict(self._query) if wait is None else {**self._query, "wait": str(wait)}
        if not self.cursor:
            query["from"] = self._start
        elif _is_visible_ascii(self.cursor):
            headers["last-event-id"] = self.cursor
        else:  # a header cannot carry it; the server answers with a gap
            query["last_event_id"] = self.cursor
        address = self._stream_url if wait is None else self._url
        return http.build_request("GET", address.copy_merge_params(query), headers=headers)

    async def _accept(self, response: httpx.Response, wanted: str) -> None:
        """Check the status and the media type. Raises Refused if final, _Ended if another attempt may succeed."""
        async with asyncio.timeout(FIRST_BYTE):
            end = await check(response, wanted)
        if end is not None:
            self._has_bytes = True
            raise _Ended(end)
        self._refused_before = False
        if self.state.name == "connecting":
            self._enter(State("replaying", "accepted", self._mode))
            self._renew_before(expiry_of(self._token))

    def _renew_before(self, expiry: float | None) -> None:
        delay = renew_in(expiry, time.time())
        if delay is not None:
            self._renewal.start(self._source, self._token, delay)

    def _ready(self, replayed: int, recovered: bool) -> None:
        self._live_at = _now()
        self._enter(State("live", "ready", self._mode, replayed=replayed, recovered=recovered))

    async def _next_token(self) -> str:
        """Return the token of the next connection. Raises Unauthorized if a header cannot carry it, and _Ended."""
        timeout = asyncio.timeout(TOKEN_SECONDS)
        try:
            async with timeout:
                token = self._renewal.take() or await fetch(self._source)
        except TimeoutError:
            if not timeout.expired():
                raise  # from the token function
            raise _Ended(End("refused", "token-timeout")) from None
        if token and not _is_visible_ascii(token):
            raise Unauthorized("The token has characters that a header cannot carry")
        return token

    def _enter(self, state: State) -> None:
        self.state = state
        if self._on_state is not None:
            self._on_state(state)


class _Ended(Exception):
    """A connection has ended."""

    def __init__(self, end: End) -> None:
        super().__init__(end.reason)
        self.end = end


def _now() -> float:
    return asyncio.get_running_loop().time()


def _is_visible_ascii(text: str) -> bool:
    return re.fullmatch(r"[\x21-\x7e]+", text) is not None
