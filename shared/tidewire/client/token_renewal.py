"""Token renewal: the next token is fetched while the current stream still delivers."""

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable

Token = str | Callable[[], str | Awaitable[str]]


async def fetch(source: Token) -> str:
    """Return the token, or the result of the token function, whose exceptions propagate."""
    value = source() if callable(source) else source
    return (await value if inspect.isawaitable(value) else value).strip()


class Renewal:
    """The renewal of one connection's token; `fresh` is the next token once it has arrived and differs.

    Its arrival expires `timeout`, so that the connection switches without waiting for the next event.
    """

    def __init__(self) -> None:
        self.fresh: str | None = None
        self.timeout: asyncio.Timeout | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[str] | None = None

    def start(self, source: Token, old: str, delay: float) -> None:
        """Fetch after `delay` seconds, which replaces an earlier delay; a fixed token is never renewed."""
        if not callable(source) or self._task is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay, self._begin, source, old)

    def stop(self) -> None:
        """Cancel the fetch; a fresh token is kept for the next connection."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._timer = self._task = self.timeout = None

    def is_done(self) -> bool:
        """Whether a fresh token has arrived."""
        return self.fresh is not None

    def take(self) -> str | None:
        """Return the fresh token and clear it."""
        fresh, self.fresh = self.fresh, None
        return fresh

    def _begin(self, source: Token, old: str) -> None:
        self._task = asyncio.create_task(fetch(source))
        self._task.add_done_callback(lambda task: self._done(task, old))

    def _done(self, task: asyncio.Task[str], old: str) -> None:
        if task.cancelled() or task.exception() is not None:
            return  # the current token is still valid; when it expires the next attempt fetches again
        if task is not self._task or task.result() in ("", old):
            return
        self.fresh = task.result()
        if self.timeout is not None:
            with contextlib.suppress(RuntimeError):  # the timeout has already expired
                self.timeout.reschedule(asyncio.get_running_loop().time())
