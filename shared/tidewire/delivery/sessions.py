"""Sessions: open streams, and long polls while they wait. Each has a slot in the limits, a lifetime and one exit."""

import asyncio
import contextlib
import math
import time
from typing import Self

from tidewire.delivery.groups import Sink
from tidewire.delivery.hub import DRAINING, Hub
from tidewire.delivery.limits import Connections
from tidewire.delivery.subscriber import Subscriber
from tidewire.errors import Unauthorized, Unavailable
from tidewire.protocol.json_page import CLOUDEVENTS_PAGE, DATA_PAGE, Page
from tidewire.protocol.sse import ClosingReason, Format
from tidewire.protocol.subscribe_request import SubscribeRequest
from tidewire.security.tokens import Identity, interest_of
from tidewire.settings.config import Settings

PAGE_SECONDS = 25.0  # that a page may take, waiting included: proxies give up soon after
EXPIRING_SECONDS = 30.0  # before its token's end a stream is warned, so that the client can come with the next one
RETRY_SECONDS = 0.5  # between two tries to write that warning


class Sessions:
    """Opens sessions on one hub, as many as its limits allow."""

    def __init__(self, hub: Hub, connections: Connections, *, leeway: float) -> None:
        """`leeway`: seconds for which a token is still accepted after its end."""
        self._hub = hub
        self._connections = connections
        self._leeway = leeway

    @classmethod
    def from_settings(cls, hub: Hub, settings: Settings) -> Self:
        """Return the sessions that the settings describe."""
        connections = Connections(settings.max_connections, settings.max_user_connections)
        return cls(hub, connections, leeway=settings.jwt_leeway)

    async def open(
        self,
        identity: Identity,
        query: SubscribeRequest,
        format: Format,
        *,
        seconds: float | None = None,
        wait_for_log: bool = False,
    ) -> "Session":
        """Return an open session; `close` must follow.

        It ends after `seconds` or with its token, whichever comes first. Raises Forbidden, TooManyRequests,
        Unauthorized, Unavailable and TransportUnavailable; `wait_for_log` as in `Hub.add`.
        """
        interest = interest_of(identity, query.types)
        self._connections.enter(interest.user_id)
        try:
            subscriber = await self._hub.add(
                interest, query.start, format, issued_at=identity.issued_at, wait_for_log=wait_for_log
            )
        except BaseException:
            self._connections.leave(interest.user_id)
            raise
        token = None if identity.expires_at is None else self._time_left(identity.expires_at)
        return Session(self._hub, self._connections, subscriber, seconds, token)

    async def read_page(self, identity: Identity, query: SubscribeRequest) -> Page:
        """Return a page: from the log as it is now, or after up to `query.wait` seconds the first events to come.

        Raises what `open` does.
        """
        page = Page(query.start.cursor)
        format = CLOUDEVENTS_PAGE if query.format == "cloudevents" else DATA_PAGE
        try:
            async with asyncio.timeout(PAGE_SECONDS):
                if query.wait:
                    await self._poll(identity, query, format, page)
                else:
                    interest = interest_of(identity, query.types)
                    await self._hub.read(interest, query.start, format, page, issued_at=identity.issued_at)
        except TimeoutError:
            if not page.cut_off():  # else the client gets what was read, and its next request goes on from there
                raise Unavailable("The log did not answer in time") from None
        return page

    async def _poll(self, identity: Identity, query: SubscribeRequest, format: Format, page: Page) -> None:
        with await self.open(identity, query, format) as session:
            session.start(page)
            await page.replayed.wait()
            with contextlib.suppress(TimeoutError):  # nothing came: the cursor alone is a response
                async with asyncio.timeout(query.wait):
                    await page.settled.wait()
            if page.cursor is None:  # a page without a cursor would lose the client's place
                session.raise_ending()

    def _time_left(self, expires_at: float) -> float:
        left = expires_at - time.time()
        return left if left > 0 else max(left + self._leeway, 0.0)  # it was accepted within the leeway


class Session:
    """One open stream or long poll. Whatever ends it first, its subscriber is closed with the reason; `close` is then
    the one exit, also of a client that has gone.
    """

    __slots__ = ("_connections", "_end", "_hub", "_reason", "_timer", "_token_end", "subscriber")

    def __init__(
        self,
        hub: Hub,
        connections: Connections,
        subscriber: Subscriber,
        seconds: float | None,
        token_seconds: float | None,
    ) -> None:
        """End after `seconds` or `token_seconds`, whichever comes first; None: never."""
        self.subscriber = subscriber
        self._hub = hub
        self._connections = connections
        now = asyncio.get_running_loop().time()
        self._token_end = math.inf if token_seconds is None else now + token_seconds
        end = math.inf if seconds is None else now + seconds
        self._end = min(end, self._token_end)
        self._reason: ClosingReason = "max-age" if end <= self._token_end else "token-expired"
        self._timer: asyncio.TimerHandle | None = None
        self._set_timer(max(now, self._token_end - EXPIRING_SECONDS))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, sink: Sink) -> None:
        """Write to `sink` from now on."""
        self.subscriber.start(sink)

    def close(self) -> None:
        """Forget the subscriber, its timer and its place in the limits."""
        if self._timer is not None:
            self._timer.cancel()
        self._hub.remove(self.subscriber)
        self._connections.leave(self.subscriber.interest.user_id)

    def raise_ending(self) -> None:
        """Raise the error for a client that was sent nothing before the session ended."""
        if self.subscriber.ending == "revoked":
            raise Unauthorized("The token was revoked")
        if self.subscriber.ending == "token-expired":
            raise Unauthorized("The token is not valid: it has expired")
        raise Unavailable(DRAINING)

    def _set_timer(self, warn_at: float) -> None:
        """Warn at that time; if it is not before the end, only end."""
        loop = asyncio.get_running_loop()
        if warn_at < self._end:
            self._timer = loop.call_at(warn_at, self._warn)
        elif self._end < math.inf:
            self._timer = loop.call_at(self._end, self.subscriber.close, self._reason)

    def _warn(self) -> None:
        now = asyncio.get_running_loop().time()
        left = self._token_end - now
        subscriber = self.subscriber
        # A stream that still replays, or is full, is warned a little later: after `ready`, between two events.
        done = left <= 0 or subscriber.write_control(subscriber.format.expiring(max(round(left), 1)))
        self._set_timer(self._end if done else now + RETRY_SECONDS)
