"""The doorbell of Upstash's REST readers: one subscription per process, and whether rings can be relied on.

Rings may be lost, doubled and late, and a stream may be silent without being cut: the vendor documents no keepalive. So
a subscription counts as heard only once a ring arrived on it, the reader rings for itself if nothing else did, and a
record whose appender did not ring is noticed. While the bell is not heard, the tail polls.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress

from tidewire.errors import TransportUnavailable
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.counters import BELL_CUTS, RINGS
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports.redis.layout import OWN_RING
from tidewire.transports.upstash.session import HOLD_SECONDS, Messages, NoEventStreamError

log = logging.getLogger(__name__)

ANSWER = 5.0  # seconds within which SUBSCRIBE is confirmed, and an own ring arrives
SILENT = 30.0  # seconds without a ring of anybody after which the reader rings for itself, with its next read of heads
LATE = 2.0  # seconds after which a record's ring will not come any more
STEADY = 60.0  # seconds: a stream that lived so long was cut by chance, and is opened again at once
RECONNECT_MAX = 300.0  # seconds: a stream that a proxy cuts again and again costs two commands each time
TRY_AGAIN = 600.0  # seconds until the next try, after a refusal that only a change of the deployment ends
TRUST = 600.0  # seconds without a record that did not ring, and then one that did, until rings are relied on again

_POLLS = "so events are polled for, up to REALTIME_POLL_MAX late, for more commands"
NO_STREAM = (
    "the REST API answers SUBSCRIBE with HTTP {}, and no event stream, {}: let REALTIME_REST_URL lead to Upstash"
    " itself, or update the proxy in front of it"
)
MAY_NOT_RING = (
    f"this process may not PUBLISH, {_POLLS}: give the user of its REST token +publish and the channels of"
    " REALTIME_PREFIX (docs/transports.md, Upstash over REST)"
)
NOT_RUNG = (
    f"a PUBLISH of this process does not reach its own SUBSCRIBE, {_POLLS}: a proxy in front of Upstash may hold back"
    " event streams"
)
SILENT_PUBLISHERS = (
    f"a record was appended without a ring, {_POLLS}: update every publisher, and give its user +publish and the"
    " channels of REALTIME_PREFIX (docs/transports.md, Upstash over REST)"
)

Subscribe = Callable[[str], AbstractAsyncContextManager[Messages]]
"""`Session.subscribe`."""


class _RingRefusedError(Exception):
    """The store refused to publish the reader's own ring."""


class _StopListening(Exception):
    """Nothing is followed any more."""


class _NotRungError(Exception):
    """The subscription was confirmed, but the reader's own ring did not arrive."""


class Bell:
    """Listens while partitions are followed. `on_ring` gets the partition, and returns whether it is followed.

    `on_subscribed` is called when a subscription was confirmed: the log must be read then, since what rang before was
    missed. `on_change` is called when `heard` may have changed.
    """

    def __init__(
        self,
        subscribe: Subscribe,
        channel: str,
        on_ring: Callable[[str], bool],
        *,
        on_subscribed: Callable[[], None],
        on_change: Callable[[], None],
    ) -> None:
        self.advice: str | None = None
        self._subscribe = subscribe
        self._channel = channel
        self._on_ring = on_ring
        self._on_subscribed = on_subscribed
        self._on_change = on_change
        self._deadline: asyncio.Timeout | None = None  # of the open stream
        self._end: Exception | None = None  # why the stream was ended by us; None if its deadline passed
        self._subscribed_at: float | None = None  # on the loop's clock
        self._heard_at: float | None = None  # the last ring on this stream
        self._rung: dict[str, float] = {}  # when each partition rang last
        self._missed_at: float | None = None  # when a record was found last whose ring did not come
        self._late: dict[str, asyncio.TimerHandle] = {}
        self._retry = asyncio.Event()
        self._is_held = False  # the next try has to wait
        self._warnings = ThrottledLog(log)

    @property
    def heard(self) -> bool:
        """Whether rings come: the tail need not poll."""
        return self._heard_at is not None and self._missed_at is None

    @property
    def wants_ring(self) -> bool:
        """Whether the reader should ring for itself: nothing has shown lately that rings arrive."""
        if self._subscribed_at is None:
            return False
        return self._heard_at is None or self._now() - self._heard_at >= SILENT

    async def run(self, wait_for_partitions: Callable[[], Awaitable[None]]) -> None:
        """Listen until cancelled; a failure of any kind is logged and followed by another try."""
        backoff = Backoff(base=0.1, cap=RECONNECT_MAX)
        while True:
            await wait_for_partitions()
            began, pause, self._is_held = self._now(), 0.0, False
            try:
                await self._listen()
                continue  # nothing is followed any more
            except NoEventStreamError as error:
                pause = TRY_AGAIN
                self._advise(NO_STREAM.format(error.args[0], _POLLS))
            except _RingRefusedError:
                pause = TRY_AGAIN
                self._advise(MAY_NOT_RING)
            except _NotRungError:
                pause = TRY_AGAIN
                self._advise(NOT_RUNG)
            except TransportUnavailable as error:
                if self._subscribed_at is None:  # it was not opened, rather than cut
                    pause = min(error.retry_after, HOLD_SECONDS)
                    self._is_held = error.retry_after > 1  # by Upstash, or by a refused token
                self._warnings.warn(f"the doorbell is not heard, subscribing again: {error.detail}")
            except Exception:  # noqa: BLE001 - `exception` logs it
                self._warnings.exception("the doorbell failed, subscribing again")
            finally:
                self._close()
            if self._now() - began >= STEADY:
                backoff.reset()
            BELL_CUTS.add()
            self._retry.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause + backoff.next()):
                    await self._retry.wait()
                    backoff.reset()

    def stop(self) -> None:
        """End the stream: nothing is followed any more."""
        self._end_stream(_StopListening())

    def retry(self) -> None:
        """Subscribe again now, if it is not known to be useless: the store answers again."""
        if self.advice is None and not self._is_held:
            self._retry.set()

    def doubt(self) -> None:
        """Let the next read of the heads ring: the stream may be as dead as another connection."""
        if self._heard_at is not None:
            self._heard_at = min(self._heard_at, self._now() - SILENT)

    def note_own_ring(self, *, rung: bool, sent_at: float) -> None:
        """Note that the reader's own ring was sent, or refused; it has to arrive soon."""
        if self._subscribed_at is None or self._subscribed_at > sent_at:
            return  # of an earlier subscription
        if not rung:
            self._end_stream(_RingRefusedError())
        elif self._heard_at is None or self._heard_at < sent_at:
            self._set_deadline(self._now() + ANSWER)

    def expect_rings(self, partitions: Iterable[str], since: float) -> None:
        """Notice records whose appenders did not ring: these partitions had some that were appended after `since`.

        A ring may still be on its way, so the verdict waits for `LATE` seconds.
        """
        if self._heard_at is None or self._subscribed_at is None or since < self._subscribed_at:
            return
        loop = asyncio.get_running_loop()
        for name in partitions:
            if self._rung.get(name, 0.0) < since and name not in self._late:
                self._late[name] = loop.call_later(LATE, self._judge, name, since)

    def forget(self, partitions: Iterable[str]) -> None:
        """Drop what is known of partitions that are not followed any more."""
        for name in partitions:
            self._rung.pop(name, None)
            if (late := self._late.pop(name, None)) is not None:
                late.cancel()

    async def _listen(self) -> None:
        """Hear rings until nothing is followed any more; raises what ended the stream otherwise."""
        self._end = None
        try:
            async with self._subscribe(self._channel) as messages, asyncio.timeout(ANSWER) as deadline:
                if self._end_reason() is not None:
                    return  # stopped while it was opened
                self._deadline = deadline
                try:
                    await self._hear(messages)
                finally:
                    self._deadline = None
        except TimeoutError:
            end = self._end_reason()
            if isinstance(end, _StopListening):
                return
            if end is not None:
                raise end from None
            if self._subscribed_at is not None and self._heard_at is None:
                raise _NotRungError from None
            raise TransportUnavailable("the event stream is silent") from None
        raise TransportUnavailable("the event stream has ended")

    async def _hear(self, messages: AsyncIterator[str]) -> None:
        async for data in messages:
            kind, _, rest = data.partition(",")
            channel, _, message = rest.partition(",")
            if channel != self._channel:
                continue
            if kind == "subscribe":
                self._subscribed_at = self._now()
                self._set_deadline(None)  # the tail reads the heads now, and rings
                self._on_subscribed()
            elif kind == "message":
                self._on_message(message)
            elif kind == "unsubscribe":
                return

    def _on_message(self, message: str) -> None:
        now = self._now()
        if self._heard_at is None and self._missed_at is None:
            self.advice = None
        was_heard, self._heard_at = self.heard, now
        self._set_deadline(None)
        if message != OWN_RING:
            RINGS.add()
            if self._on_ring(message):
                self._rung[message] = now
            if self._missed_at is not None and now - self._missed_at >= TRUST:
                self._missed_at = self.advice = None
        if not was_heard:
            self._on_change()

    def _judge(self, name: str, since: float) -> None:
        del self._late[name]
        if self._subscribed_at is None or self._subscribed_at > since or self._rung.get(name, 0.0) >= since:
            return
        self._missed_at = self._now()
        self._advise(SILENT_PUBLISHERS)
        self._on_change()

    def _advise(self, advice: str) -> None:
        if self.advice != advice:
            self.advice = advice
            log.warning("%s", advice)

    def _end_stream(self, why: Exception) -> None:
        if self._end is None:
            self._set_deadline(self._now())
            self._end = why

    def _end_reason(self) -> Exception | None:
        return self._end

    def _set_deadline(self, at: float | None) -> None:
        """Move the moment at which the stream is ended; what is ending stays so, whatever arrives meanwhile."""
        if self._deadline is not None and self._end is None and not self._deadline.expired():
            self._deadline.reschedule(at)

    def _close(self) -> None:
        if self._subscribed_at is not None:
            self._subscribed_at = self._heard_at = None
            self._on_change()
        self.forget(list(self._rung) + list(self._late))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
