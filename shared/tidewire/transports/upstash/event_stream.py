"""Upstash's event streams: `POST /subscribe/<channel>` answers with server-sent events for as long as it is open.

https://upstash.com/docs/redis/features/restapi#subscribe-&-publish-commands: a line `data: subscribe,<channel>,1` once
the channel is subscribed, then `data: message,<channel>,<message>`. Neither keepalives nor a longest duration are
documented. The vendor's Python client cannot stream, so httpx, which it brings, is used directly.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from urllib.parse import urlsplit

import httpx

from tidewire.transports.errors import ConnectionLost, ProtocolError, ReadTimeout
from tidewire.transports.sockets import SOCKET_OPTIONS

LINE_BYTES = 64 * 1024  # of one line: a message is a partition's name

MEDIA_TYPE = "text/event-stream"
_HEADERS = {
    "accept": MEDIA_TYPE,
    "accept-encoding": "identity",  # a compressing proxy may hold an event back until more have come
    "cache-control": "no-cache",
}


class EventStream:
    """An open response; `is_events`: it is a stream of events, and no error or page."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        self.is_events = self.status == HTTPStatus.OK and kind == MEDIA_TYPE

    async def data(self) -> AsyncGenerator[str, None]:
        """Yield the text of each `data` line until the stream ends. Raises StoreError."""
        rest = b""
        try:
            async for piece in self._response.aiter_bytes():
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > LINE_BYTES:
                    raise ProtocolError("a line of the event stream is too long")
                for line in lines:
                    if line.startswith(b"data:"):
                        yield line[5:].strip().decode(errors="replace")
        except (httpx.NetworkError, httpx.RemoteProtocolError, httpx.StreamError) as error:
            raise ConnectionLost(type(error).__name__) from error
        except httpx.TimeoutException as error:
            raise ReadTimeout from error
        except httpx.HTTPError as error:
            raise ProtocolError(type(error).__name__) from error


class EventStreams:
    """Opens event streams, each on a connection of its own. `timeout`: seconds until a response has begun."""

    def __init__(self, url: str, *, timeout: float, behind_proxy: bool) -> None:
        self._origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
        self._timeout = timeout
        timeouts = httpx.Timeout(timeout, read=None)  # nothing may come for as long as nothing is published
        if behind_proxy:  # httpx ignores the proxy variables if it is given a transport
            self._client = httpx.AsyncClient(timeout=timeouts)
        else:
            transport = httpx.AsyncHTTPTransport(socket_options=SOCKET_OPTIONS)
            self._client = httpx.AsyncClient(timeout=timeouts, transport=transport)
        if logging.getLogger("httpx").level == logging.NOTSET:
            logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs the URL of each request

    @asynccontextmanager
    async def open(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[EventStream]:
        """POST, and give the response, whatever its status. Raises StoreError."""
        request = self._client.build_request("POST", self._origin + path, headers={**headers, **_HEADERS})
        try:
            async with asyncio.timeout(self._timeout):  # also a proxy that holds the response back until it ends
                response = await self._client.send(request, stream=True)
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise ConnectionLost(type(error).__name__) from error
        except (httpx.TimeoutException, TimeoutError) as error:
            raise ReadTimeout from error
        except httpx.HTTPError as error:
            raise ProtocolError(type(error).__name__) from error
        try:
            yield EventStream(response)
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()
