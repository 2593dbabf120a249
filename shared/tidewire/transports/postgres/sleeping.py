"""When the database may sleep: while nobody uses the log, no statement is sent that would keep its compute awake.

Neon suspends a compute 5 minutes after its last query (https://neon.com/docs/introduction/scale-to-zero), and closes
its connections. A session that only listens is no activity: the compute's monitor looks at the times of queries, and at
new sessions (compute_tools/src/monitor.rs of neondatabase/neon). Any new connection wakes the compute.
"""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

WAKE_EVERY = 3_600.0  # seconds


class Sleep(NamedTuple):
    """After how many seconds without a use the database may sleep (None: never), and how often it is woken then."""

    after: float | None = None
    every: float = WAKE_EVERY


class Sleeping:
    """Knows when the log was last used: events appended or delivered, and reads for subscribers, in this process.

    While `asleep`, a tail waits in `until_due`; a use ends that wait, and so does the next wake-up. Wake-ups are at
    multiples of `every` since 1970, so that several processes wake the same compute at the same time.
    """

    def __init__(self, sleep: Sleep, clock: Callable[[], float] = time.time) -> None:
        self._after, self._every = sleep
        self._clock = clock
        self._used_at = time.monotonic()
        self._woken_at = clock()  # when the last wake-up's read was answered
        self._used = asyncio.Event()
        self._on_wake: dict[Callable[[], None], None] = {}

    @property
    def enabled(self) -> bool:
        """Whether the database may sleep at times."""
        return self._after is not None

    @property
    def asleep(self) -> bool:
        """Whether the log has not been used for long enough."""
        return self._after is not None and time.monotonic() - self._used_at >= self._after

    def use(self) -> None:
        """Note that the log is used: its compute is awake, and the tails read again."""
        was_asleep = self.asleep
        self._used_at = time.monotonic()
        if was_asleep:
            self._used.set()
            for call in list(self._on_wake):
                call()

    def seconds(self) -> float:
        """Return the time until the next wake-up, 0 if it is due and its read was not answered yet."""
        return max(0.0, (self._woken_at // self._every + 1) * self._every - self._clock())

    def answered(self) -> None:
        """Note that a read was answered: a wake-up that was due is done."""
        self._woken_at = self._clock()

    async def until_due(self) -> None:
        """Return at once if the log is in use, else with the next use or wake-up."""
        while self.asleep and (seconds := self.seconds()) > 0:
            self._used.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._used.wait()
            except TimeoutError:
                continue

    def add_listener(self, call: Callable[[], None]) -> None:
        """Call this whenever a use ends the sleep."""
        self._on_wake[call] = None

    def remove_listener(self, call: Callable[[], None]) -> None:
        """Do not call it any more."""
        self._on_wake.pop(call, None)
