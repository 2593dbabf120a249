"""A session that counts the commands of a log over REST, in virtual time, while the log grows as a test wants."""

import asyncio
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tidewire.model.event import Event
from tidewire.model.record import pack
from tidewire.transports.log_base import chain
from tidewire.transports.redis.layout import APPEND, SEEK, Arguments
from tidewire.transports.upstash.rest_log import UpstashRest

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
            self._appended += 1
            return [["1", str(self.length), check(self.length), "0", 0]]
        if command[0] == "EVALSHA":
            assert command[1] == SEEK.sha
            return [["1", str(self.length), check(self.length), "0"]] * (int(command[2]) // 2)
        assert command[0] == "XREAD"
        after = int(str(command[-1]).partition("-")[2])
        entries = [entry(number) for number in range(after + 1, self.length + 1)]
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
