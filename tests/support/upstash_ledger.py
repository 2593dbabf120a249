"""A session that counts the commands of a log over REST, in virtual time, while the log grows as a test wants.

Its doorbell rings a moment after each event, unless it is `mute`; a test cuts or silences the stream, or rings itself.
"""

import asyncio
from bisect import bisect
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tidewire.model.event import Event
from tidewire.model.partitions import ALL
from tidewire.model.record import pack
from tidewire.transports.log_base import chain
from tidewire.transports.redis.layout import APPEND, OWN_RING, SEEK, Arguments
from tidewire.transports.upstash.rest_log import UpstashRest
from tidewire.transports.upstash.session import NoEventStreamError

from tests.support.clocks import pass_time


class Ledger:
    """A session that counts, over a log of one partition that grows by an event every so often, and at moments."""

    seconds_held = 0.0

    def __init__(self, every: float | None, moments: Sequence[float]) -> None:
        self.commands: Counter[str] = Counter()
        self.times: list[float] = []
        self._every = every
        self._moments = sorted(moments)
        self._appended = 0
        self.refuses_streams = False  # SUBSCRIBE is a 404
        self.refuses_rings = False  # PUBLISH is not permitted
        self.mute = False  # appends do not ring
        self.silent = False  # nothing arrives on the stream but the confirmation
        self.open_error: Exception | None = None  # what opening a stream raises
        self.lag = 0.0  # seconds by which reads of records are behind: a replica
        self.own_rings = 0
        self._appended_at: list[float] = []
        self.streams: list[asyncio.Queue[str]] = []  # that are open; "" cuts one

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[AsyncIterator[str]]:
        """Subscribe, as `Session.subscribe` does."""
        self.commands["SUBSCRIBE"] += 1
        await pass_time(0.02)
        if self.open_error is not None:
            raise self.open_error
        if self.refuses_streams:
            raise NoEventStreamError(404)
        queue: asyncio.Queue[str] = asyncio.Queue()
        ringing = asyncio.create_task(self._ring_for_events(queue))
        self.streams.append(queue)

        async def messages() -> AsyncIterator[str]:
            yield f"subscribe,{channel},1"
            while name := await queue.get():
                if not self.silent:
                    yield f"message,{channel},{name}"

        try:
            yield messages()
        finally:
            ringing.cancel()
            self.streams.remove(queue)

    async def _ring_for_events(self, queue: asyncio.Queue[str]) -> None:
        seen = self.length
        while True:
            await asyncio.sleep(self._seconds_to_next())
            if self.length > seen and not self.mute:
                queue.put_nowait(ALL)
            seen = self.length

    def _seconds_to_next(self) -> float:
        """Seconds until the next event by itself."""
        now = asyncio.get_running_loop().time()
        nexts = [moment for moment in self._moments if moment > now][:1]
        if self._every is not None:
            nexts.append((int(now / self._every) + 1) * self._every)
        return min(nexts, default=1e9) - now + 1e-6

    def append(self) -> None:
        """Append an event, without a ring."""
        self._appended += 1
        self._appended_at.append(asyncio.get_running_loop().time())

    def lose(self) -> None:
        """Lose the last event, as a store that falls back to an older state."""
        self._appended -= 1
        self._appended_at.pop()

    def ring(self, name: str = ALL) -> None:
        """Ring on every open stream."""
        for queue in self.streams:
            queue.put_nowait(name)

    def cut(self) -> None:
        """End every open stream."""
        for queue in self.streams:
            queue.put_nowait("")

    async def send(self, commands: Sequence[Arguments], *, in_turn: bool = True, cold: bool = False) -> list[Any]:
        self.commands.update(str(command[0]) for command in commands)
        self.times.append(asyncio.get_running_loop().time())
        await pass_time(0.02)
        return [self._reply(command) for command in commands]

    async def aclose(self) -> None: ...

    @property
    def length(self) -> int:
        now = asyncio.get_running_loop().time()
        regular = 0 if self._every is None else int(now / self._every)
        return regular + bisect(self._moments, now) + self._appended

    def _reply(self, command: Arguments) -> Any:
        if command[:2] == ["EVALSHA", APPEND.sha]:
            self.append()
            if not self.mute:
                self.ring()
            return [["1", str(self.length), check(self.length), "0", 0]]
        if command[0] == "EVALSHA":
            assert command[1] == SEEK.sha
            heads: list[Any] = [["1", str(self.length), check(self.length), "0"]] * (int(command[2]) // 2)
            if command[-1] == OWN_RING:
                self.own_rings += 1
                heads.append(0 if self.refuses_rings else 1)
                if not self.refuses_rings:
                    self.ring(OWN_RING)
            return heads
        assert command[0] == "XREAD"
        after = int(str(command[-1]).partition("-")[2])
        visible = asyncio.get_running_loop().time() - self.lag
        lagging = sum(moment > visible for moment in self._appended_at) if self.lag else 0
        entries = [entry(number) for number in range(after + 1, self.length - lagging + 1)]
        return [[command[4], entries]] if entries else None


def check(number: int) -> str:
    """The check of the n-th event."""
    for n in range(len(_checks), number + 1):
        _checks.append(chain(_checks[-1], f"id-{n}"))
    return _checks[number]


_checks = [""]


def entry(number: int) -> list[Any]:
    """The n-th entry."""
    event = pack(Event(f"id-{number}", "t", b"1")).decode()
    return [f"1-{number}", ["e", f"{check(number)}0000000000001{event}"]]


def make_log(every: float | None = None, moments: Sequence[float] = ()) -> tuple[UpstashRest, Ledger]:
    """A log with the default settings, and the session that counts its commands."""
    log = UpstashRest("http://127.0.0.1:1", "token")
    ledger = Ledger(every, moments)
    log.session = ledger  # type: ignore[assignment]  # stands in for the session
    return log, ledger
