"""Redis Sentinel: where the primary is now (https://redis.io/docs/latest/develop/reference/sentinel-clients/)."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports.errors import (
    CommandError,
    ConnectionClosed,
    ConnectionLost,
    NotServing,
    ReadTimeout,
    StoreError,
)
from tidewire.transports.log_base import stop
from tidewire.transports.redis.address import Address, Servers
from tidewire.transports.redis.connection import Connection

log = logging.getLogger(__name__)
warnings = ThrottledLog(log)

ASK_TIMEOUT = 1.5  # seconds for one sentinel, its connection included: the rest of a caller's 5 s is for the primary
GRACE = 0.2  # seconds after the first answer in which the majority may answer too
INTERVAL = 1.0
"""Seconds between two questions while a process uses Redis. An old primary that is cut off, or is not demoted yet,
accepts writes that the next failback discards: this bounds for how long they are sent there."""
KEPT = 5.0  # seconds for which a silent connection to a sentinel is used again

_DOWN = frozenset({"s_down", "o_down"})


class _Answer(NamedTuple):
    """What one sentinel says of the primary."""

    epoch: int  # of the configuration: each failover has a higher one
    host: str
    port: int
    is_down: bool

    @property
    def place(self) -> tuple[str, int]:
        return self.host, self.port


class UnknownService(ConnectionLost):
    """Every sentinel that answers knows no primary of this name."""

    def __init__(self) -> None:
        super().__init__("the sentinels know no primary of the name in REDIS_URL")


class Sentinels:
    """Finds the primary, and finds it again every second: `on_moved` is called when it is another one.

    All sentinels are asked at once. The answer with the highest configuration epoch counts, once a majority of them
    has answered, or a moment after the first answer: a sentinel that is cut off from the others still names the old
    primary. If no sentinel answers, the last known address is used; whether that server is a primary shows in its
    answers (READONLY).
    """

    def __init__(self, servers: Servers, on_moved: Callable[[], None] = lambda: None) -> None:
        self._servers = servers
        self._on_moved = on_moved
        self._known: _Answer | None = None
        self._kept: dict[Address, tuple[float, Connection]] = {}  # when each was used last
        self._asking: asyncio.Task[Address] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def known(self) -> Address | None:
        """The primary that was named last; None before any sentinel has answered."""
        return None if self._known is None else self._servers.node(self._known.host, self._known.port)

    async def locate(self) -> Address:
        """Return the primary's address, found after this call began or shortly before.

        Takes `ASK_TIMEOUT` at most. Raises ConnectionLost: UnknownService if no sentinel knows the name.
        """
        if self._closed:
            raise ConnectionClosed("the connections to the sentinels were closed")
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._locate())
            self._asking.add_done_callback(lambda done: done.cancelled() or done.exception())  # or asyncio logs it
        asking = self._asking
        await asyncio.wait((asking,))  # a cancelled caller does not cancel the others' question
        if asking.cancelled():
            raise ConnectionClosed("the connections to the sentinels were closed")
        if self._watching is None and not self._closed:
            self._watching = asyncio.create_task(self._watch())
        return asking.result()

    async def aclose(self) -> None:
        """Stop asking, and close the connections to the sentinels."""
        self._closed = True
        if self._watching is not None:
            await stop(self._watching)
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait((self._asking,))
        while self._kept:
            self._kept.popitem()[1][1].close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.locate()
            except StoreError as error:
                warnings.warn(f"Sentinel: {error}")

    async def _locate(self) -> Address:
        answers, failures = await self._ask_all()
        if not answers:
            if self._known is None:
                raise ConnectionLost(f"no sentinel answers ({', '.join(sorted(set(failures)))})")
            warnings.warn(f"no sentinel answers ({', '.join(sorted(set(failures)))}): using the last known primary")
            return self._servers.node(self._known.host, self._known.port)
        named = [answer for answer in answers if answer is not None]
        if not named:
            raise UnknownService
        newest = max(answer.epoch for answer in named)
        agreed = [answer for answer in named if answer.epoch == newest]
        if self._known is not None and newest < self._known.epoch and 2 * len(agreed) <= len(self._servers.seeds):
            raise ConnectionLost("the sentinels that answer name a primary that was replaced")
        up = [answer for answer in agreed if not answer.is_down]
        if not up:
            raise ConnectionLost("the sentinels report that the primary is down")
        before = self._known
        named_by = Counter(answer.place for answer in up)
        # Of two that as many sentinels name, it stays the one before: else connections would be closed every second.
        found = max(up, key=lambda at: (named_by[at.place], before is not None and at.place == before.place))
        self._known = found
        if before is not None and before.place != found.place:
            log.warning("Sentinel names another primary: reconnecting")
            self._on_moved()
        return self._servers.node(found.host, found.port)

    async def _ask_all(self) -> tuple[list[_Answer | None], list[str]]:
        """Return the answers, None for an unknown name, and the reasons of those who did not answer."""
        loop = asyncio.get_running_loop()
        answers: list[_Answer | None] = []
        failures: list[str] = []
        pending = {asyncio.create_task(self._ask(sentinel)) for sentinel in self._servers.seeds}
        until: float | None = None
        try:
            while pending and 2 * len(answers) <= len(self._servers.seeds):
                wait = None if until is None else until - loop.time()
                done, pending = await asyncio.wait(pending, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
                for task in done:
                    try:
                        answers.append(task.result())
                    except StoreError as error:
                        failures.append(str(error))
                if answers and until is None:
                    until = loop.time() + GRACE
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        return answers, failures

    async def _ask(self, sentinel: Address) -> _Answer | None:
        """Ask one sentinel. Raises StoreError."""
        clock = asyncio.get_running_loop().time
        used, connection = self._kept.pop(sentinel, (0.0, None))
        if connection is None or not connection.usable or clock() - used > KEPT:
            if connection is not None:
                connection.close()
            connection = Connection(sentinel)
        name = self._servers.service
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                if not connection.usable:
                    await connection.connect(ASK_TIMEOUT)
                # The first names the promoted replica as soon as it is one; the second, the old primary until the
                # failover has ended.
                place, state = await connection.call(
                    [["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name], ["SENTINEL", "MASTER", name]], ASK_TIMEOUT
                )
        except TimeoutError:
            connection.close()
            raise ReadTimeout("no answer in time") from None
        except BaseException:
            connection.close()
            raise
        self._kept[sentinel] = clock(), connection
        return _read_answer(place, state)


def _read_answer(place: Any, state: Any) -> _Answer | None:
    if place is None:
        return None
    if isinstance(place, CommandError):
        raise NotServing(place.code)  # NOAUTH, NOPERM: another sentinel may answer
    try:
        host, port = place[0].decode(), int(place[1])
        known = {} if isinstance(state, CommandError) else dict(zip(state[::2], state[1::2], strict=True))
        old = known.get(b"ip"), known.get(b"port")
        flags = set(known.get(b"flags", b"").decode().split(","))
        epoch = int(known.get(b"config-epoch", 0))
    except (TypeError, ValueError, IndexError, AttributeError):
        raise ConnectionLost("not a sentinel") from None
    return _Answer(epoch, host, port, old == (place[0], place[1]) and not flags.isdisjoint(_DOWN))
