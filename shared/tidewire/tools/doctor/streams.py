"""A stream that a background task reads, so that each frame has its time of arrival."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import httpx

from tidewire.client.decoder import Decoder, Frame, FrameTooLarge

# The headers of browsers: a proxy that compresses their streams compresses this one too.
_HEADERS = {"accept": "text/event-stream", "accept-encoding": "gzip, deflate, br", "cache-control": "no-store"}


def now() -> float:
    """Return the time of a monotonic clock, in seconds."""
    return time.perf_counter()


class Arrival(NamedTuple):
    """A frame and its time of arrival."""

    at: float
    frame: Frame


class Stream:
    """A response that a task reads until `aclose`; `end` is how it ended, None while it is open."""

    def __init__(self, response: httpx.Response, last_event_id: str = "") -> None:
        self.response = response
        self.last_event_id = last_event_id
        self.arrivals: list[Arrival] = []
        self.end: str | None = None
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def find(self, wanted: Callable[[Frame], bool], seconds: float, *, after: int = 0) -> Arrival | None:
        """Return the first frame from index `after` that is wanted, None if none arrives in time."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._changed.clear()
                    for arrival in self.arrivals[after:]:
                        if wanted(arrival.frame):
                            return arrival
                    if self.end is not None:
                        return None
                    await self._changed.wait()
        except TimeoutError:
            return None

    async def aclose(self) -> None:
        """Close the connection."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self.response.aclose()

    async def _read(self) -> None:
        decoder = Decoder(self.last_event_id)
        try:
            async for chunk in self.response.aiter_raw():
                at = now()
                for frame in decoder.feed(chunk):
                    self.arrivals.append(Arrival(at, frame))
                    self.last_event_id = frame.last_event_id
                self._changed.set()
            self.end = "the server ended it"
        except (httpx.RequestError, FrameTooLarge) as error:
            self.end = type(error).__name__  # its text may contain event data
        finally:
            self._changed.set()


async def open_stream(
    http: httpx.AsyncClient, url: str, query: Mapping[str, str], headers: Mapping[str, str], seconds: float
) -> httpx.Response:
    """Return the response once its headers arrive. Raises TimeoutError after `seconds`, and httpx.RequestError."""
    request = http.build_request("GET", url, params=dict(query), headers={**_HEADERS, **headers}, timeout=None)
    request.extensions["timeout"] = {"connect": seconds, "read": None, "write": seconds, "pool": seconds}
    async with asyncio.timeout(seconds):
        return await http.send(request, stream=True)
