"""The vendor's client, `upstash-redis`, for long-lived processes: pipelines over httpx, under the rules of `Session`.

Its own HTTP client ignores the status (a refused pipeline is an AttributeError there) and Retry-After, waits for a
reply without a time-out, and keeps only the first error of a pipeline; its `Redis` would open a second one. So
`execute`, to which its pipelines give their commands, is ours. Telemetry is off.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
from upstash_redis.asyncio.client import AsyncPipeline
from upstash_redis.http import AsyncHttpClient

from tidewire.transports.errors import ConnectionLost, ProtocolError, ReadTimeout
from tidewire.transports.lean_http import HttpClient, Response
from tidewire.transports.sockets import SOCKET_OPTIONS

Post = Callable[[HttpClient, Sequence[Any]], Awaitable[list[Any]]]
"""`Session.post`."""


class VendorClient(AsyncHttpClient):
    """Runs pipelines, and is their HTTP client."""

    def __init__(
        self,
        url: str,
        post: Post,
        *,
        connections: int,
        read_timeout: float,
        keepalive: float,
        behind_proxy: bool,
    ) -> None:
        self._url = url
        self._origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
        self._post = post
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=keepalive
        )
        context = httpx.create_ssl_context()  # shared: reading the certificates takes longer than the rest of a client

        def make_client() -> httpx.AsyncClient:
            if behind_proxy:  # httpx ignores the proxy variables if it is given a transport
                return httpx.AsyncClient(timeout=read_timeout, limits=limits, verify=context)
            transport = httpx.AsyncHTTPTransport(verify=context, limits=limits, socket_options=SOCKET_OPTIONS)
            return httpx.AsyncClient(timeout=read_timeout, transport=transport)

        self._make_client = make_client
        self._client = make_client()
        self._requests: Counter[httpx.AsyncClient] = Counter()  # under way
        self._closing: set[asyncio.Task[None]] = set()
        if logging.getLogger("httpx").level == logging.NOTSET:
            logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs the URL of each request

    async def run(self, commands: Sequence[list[Any]]) -> list[Any]:
        """Return the replies to the commands of one request."""
        pipeline = AsyncPipeline(self._url, {}, self, "pipeline", lambda _: None, None)
        for command in commands:
            pipeline.execute(command)
        return list(await pipeline.exec())

    async def execute(
        self, url: str, headers: dict[str, str], command: list[Any], from_pipeline: bool = False
    ) -> list[Any]:
        """Return the replies to a pipeline's commands; `Session` adds path and headers. Raises TransportUnavailable."""
        assert from_pipeline
        return await self._post(self, command)

    async def post(self, path: str, headers: Mapping[str, str], content: bytes) -> Response:
        """Return the response, whatever its status. Raises StoreError."""
        client = self._client
        self._requests[client] += 1
        try:
            response = await client.post(self._origin + path, headers=dict(headers), content=content)
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise ConnectionLost(type(error).__name__) from error
        except httpx.TimeoutException as error:
            raise ReadTimeout from error
        except httpx.HTTPError as error:
            raise ProtocolError(type(error).__name__) from error
        finally:
            self._requests[client] -= 1
            if not self._requests[client]:
                del self._requests[client]
                if client is not self._client:
                    await client.aclose()
        return Response(response.status_code, response.headers, response.content)

    def evict(self) -> None:
        """Use a new client, since httpx cannot drop idle connections; the old one ends its requests."""
        old, self._client = self._client, self._make_client()
        if not self._requests[old]:
            task = asyncio.create_task(old.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(client.aclose() for client in {self._client, *self._requests}), *self._closing)
