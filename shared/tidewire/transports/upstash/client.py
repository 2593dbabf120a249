"""The vendor's client, `upstash-redis`, for what lives long: its pipelines over httpx, held to the rules of `Session`.

Its own HTTP client looks at no status (a refused pipeline is an AttributeError there), forgets Retry-After, waits for
an answer without end, and keeps of a pipeline only the first error; its `Redis` would open a second one. Telemetry is
off.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
from upstash_redis.asyncio.client import AsyncPipeline
from upstash_redis.http import AsyncHttpClient, make_headers

from tidewire.transports import keepalive
from tidewire.transports.lean_http import Answer, BrokenError, LostError, SilentError

Answered = Callable[[Callable[[bytes], Awaitable[Answer]], Sequence[Any]], Awaitable[list[Any]]]
"""(how to send a body, commands) → their replies."""


class VendorClient:
    """Runs pipelines; `answered` and `add_sync_token` are those of `Session`."""

    def __init__(
        self,
        url: str,
        token: str,
        answered: Answered,
        add_sync_token: Callable[[dict[str, str]], None],
        *,
        connections: int,
        silence: float,
        idle: float,
        behind_proxy: bool,
    ) -> None:
        self._url = url
        self._headers = make_headers(token, None, allow_telemetry=False)
        self._add_sync_token = add_sync_token
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=idle)
        context = httpx.create_ssl_context()  # reading the certificates takes longer than all the rest of a client

        def make_client() -> httpx.AsyncClient:
            if behind_proxy:  # a client with a transport of its own knows no proxies
                return httpx.AsyncClient(timeout=silence, limits=limits, verify=context)
            transport = httpx.AsyncHTTPTransport(verify=context, limits=limits, socket_options=keepalive.OPTIONS)
            return httpx.AsyncClient(timeout=silence, transport=transport)

        self._http = _Http(make_client, answered)
        if logging.getLogger("httpx").level == logging.NOTSET:
            logging.getLogger("httpx").setLevel(logging.WARNING)  # its lines for each request hold the URL

    async def run(self, commands: Sequence[list[Any]]) -> list[Any]:
        """Return the replies to the commands of one request."""
        pipeline = AsyncPipeline(self._url, self._headers, self._http, "pipeline", self._add_sync_token, None)
        for command in commands:
            pipeline.execute(command)
        return list(await pipeline.exec())

    def renew(self) -> None:
        """Use no connection again that is open now."""
        self._http.renew()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.close()


class _Http(AsyncHttpClient):
    def __init__(self, make_client: Callable[[], httpx.AsyncClient], answered: Answered) -> None:
        self._make_client = make_client
        self._client = make_client()
        self._busy: Counter[httpx.AsyncClient] = (
            Counter()
        )  # requests under way; one that is not in use any more is closed
        self._closing: set[asyncio.Task[None]] = set()
        self._answered = answered

    def renew(self) -> None:
        """Make a new client, since httpx cannot be asked to drop idle connections; the old one ends its requests."""
        old, self._client = self._client, self._make_client()
        if not self._busy[old]:
            task = asyncio.create_task(old.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        await asyncio.gather(*(client.aclose() for client in {self._client, *self._busy}), *self._closing)

    async def execute(
        self, url: str, headers: dict[str, str], command: list[Any], from_pipeline: bool = False
    ) -> list[Any]:
        assert from_pipeline, "one road for one command and for many"
        asked = {**headers, "content-type": "application/json"}
        return await self._answered(lambda body: self._post(url, asked, body), command)

    async def _post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        client = self._client
        self._busy[client] += 1
        try:
            response = await client.post(url, headers=headers, content=body)
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise LostError(type(error).__name__) from error
        except httpx.TimeoutException as error:
            raise SilentError from error
        except httpx.HTTPError as error:
            raise BrokenError(type(error).__name__) from error
        finally:
            self._busy[client] -= 1
            if not self._busy[client]:
                del self._busy[client]
                if client is not self._client:
                    await client.aclose()
        return Answer(response.status_code, response.headers, response.content)
