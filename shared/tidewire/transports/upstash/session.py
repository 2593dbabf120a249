"""Upstash's REST API: commands as JSON over HTTP, several in one request.

A `Session` handles retries and refusals, and assigns each reply to its command. Below it are two HTTP clients with the
same `post`: `LeanHttp` for functions that start cold (to publish, take from a bucket or answer a health check), and the
vendor's client, `upstash-redis`, for long-lived readers; its import alone takes longer than a cold start.
`EventStreams` subscribes to a channel.
"""

import asyncio
import contextlib
import email.utils
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from tidewire.errors import TransportUnavailable
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.circuit_breaker import CircuitBreaker
from tidewire.transports import errors
from tidewire.transports.errors import CommandError, ConnectionLost, ReadTimeout, StoreError, is_not_serving
from tidewire.transports.lean_http import HttpClient, LeanHttp, Response
from tidewire.transports.redis.layout import Arguments

if TYPE_CHECKING:
    from tidewire.transports.upstash.event_stream import EventStreams
    from tidewire.transports.upstash.vendor_client import VendorClient

READ_TIMEOUT = 5.0  # seconds without a byte; a publisher gets its 503 after it, not after minutes
EXCHANGE_TIMEOUT = 20.0  # seconds for all of it: waiting for a turn, a page of large events on a slow line
CONNECTIONS = 16  # more callers wait for their turn; the tail does not, since it has a connection of its own
TRIES = 3  # after a lost connection: those of a function that was frozen have died meanwhile
KEEPALIVE = 60.0  # seconds: longer than the slowest usual poll, or each would need a handshake
TOO_LARGE = "max request size exceeded"  # Upstash says this of a request, and of a reply
HOLD_SECONDS = 30.0  # the longest time for which one refusal stops all requests, whatever Retry-After says

_RETRY_AFTER = {401: 30, 403: 30, 429: 5}  # seconds, without a header: no client can correct a wrong token
_REFUSALS = (HTTPStatus.REQUEST_TIMEOUT, *_RETRY_AFTER)  # of this request, below 500; any other speaks of SUBSCRIBE
_TIMEOUT_RETRY_AFTER = math.ceil(READ_TIMEOUT)
_MAX_RETRY_AFTER = 3_600

_PROXIES = ("https_proxy", "http_proxy", "all_proxy")

Command = list[str | int]

Messages = AsyncIterator[str]
"""The data of a subscription's events: `subscribe,<channel>,1`, then `message,<channel>,<message>` for each message."""


class NoEventStreamError(Exception):
    """The server answers SUBSCRIBE with something else than an event stream; its `args` are the HTTP status."""


class _Reply(msgspec.Struct):
    result: Any = None
    error: str | None = None


_replies = msgspec.json.Decoder(list[_Reply])
_reply = msgspec.json.Decoder(_Reply)


class Session:
    """Runs commands over REST, several in one request.

    Replies are not requested in base64: everything stored is UTF-8, and base64 adds a third to the billed bytes.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._authorization = {"authorization": f"Bearer {token}"}
        self._sync_token = ""
        self._breaker = CircuitBreaker((TransportUnavailable,), _unchanged, _hold)
        self._turn = asyncio.Semaphore(CONNECTIONS)
        self._lean = LeanHttp(url, read_timeout=READ_TIMEOUT, keepalive=KEEPALIVE)
        self._path = f"{urlsplit(url).path}/pipeline"
        self._vendor: VendorClient | None = None
        self._streams: EventStreams | None = None
        self._behind_proxy = any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES)

    async def send(
        self, commands: Sequence[Arguments], *, in_turn: bool = True, even_if_open: bool = False, cold: bool = False
    ) -> list[Any]:
        """Return the replies of commands that are run in order in one request; a refused one's is a CommandError.

        Raises TransportUnavailable: it is unknown then which of them were run. `even_if_open`: see
        `CircuitBreaker.run`. `cold` is for a function that has just started: the lean client sends, unless HTTPS_PROXY
        or the like is set, which only the vendor's client supports.
        """
        texts = [[part.decode() if isinstance(part, bytes) else part for part in command] for command in commands]
        is_lean = cold and not self._behind_proxy
        return await self._breaker.run(lambda: self._exchange(texts, is_lean, in_turn), even_if_open=even_if_open)

    @contextlib.asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[Messages]:
        """Subscribe to a channel, and give what arrives; raises TransportUnavailable, also while it is read.

        Raises NoEventStreamError if the server, or a proxy in front of it, has no event stream to give.
        """
        if self._streams is None:
            from tidewire.transports.upstash.event_stream import EventStreams

            self._streams = EventStreams(self._url, timeout=READ_TIMEOUT, behind_proxy=self._behind_proxy)
        path = f"{urlsplit(self._url).path}/subscribe/{channel}"
        try:
            async with self._streams.open(path, self._authorization) as stream:
                if not stream.is_events:
                    await self._refuse_stream(stream.status, stream.headers)
                async with contextlib.aclosing(stream.data()) as messages:
                    yield messages
        except StoreError as error:
            raise unavailable(error) from error

    async def _refuse_stream(self, status: int, headers: Mapping[str, str]) -> None:
        is_known = status in _REFUSALS or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if not is_known or status == HTTPStatus.NOT_IMPLEMENTED:
            raise NoEventStreamError(status)
        error = _refused(Response(status, headers, b""))
        if _hold(error):

            async def refuse() -> None:
                raise error

            await self._breaker.run(refuse)  # which sends nothing for as long as Upstash asked for
        raise error

    async def post(self, client: HttpClient, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to commands that `client` sends. Raises TransportUnavailable."""
        headers = {
            **self._authorization,
            "content-type": "application/json",
            "upstash-sync-token": self._sync_token,  # a replica replies only once it holds what this process has seen
        }
        body = msgspec.json.encode(commands)
        response = await _until_answered(lambda: client.post(self._path, headers, body), self.evict)
        self._sync_token = response.headers.get("upstash-sync-token") or self._sync_token
        try:
            if response.status == HTTPStatus.OK:
                replies = _replies.decode(response.content)
            elif response.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                replies = [_Reply(error=f"ERR {TOO_LARGE}")] * len(commands)  # from a proxy in front of it
            elif response.status == HTTPStatus.BAD_REQUEST:
                replies = [_reply.decode(response.content)] * len(commands)  # refused as a whole
            else:
                raise _refused(response)
        except msgspec.DecodeError:
            raise unavailable("an answer that is not Upstash's") from None
        if len(replies) != len(commands):
            raise unavailable("an answer that is not Upstash's")
        return [reply.result if reply.error is None else CommandError(reply.error) for reply in replies]

    @property
    def is_unavailable(self) -> bool:
        """Whether the last requests were lost."""
        return self._breaker.is_open

    @property
    def seconds_held(self) -> float:
        """Seconds until `send` sends again: longer if Upstash asked for a pause."""
        return self._breaker.seconds_left

    def evict(self) -> None:
        """Use no connection again that is open now: a NAT or a failover has done the same to all of them."""
        self._lean.evict()
        if self._vendor is not None:
            self._vendor.evict()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._lean.aclose()
        for client in (self._vendor, self._streams):
            if client is not None:
                await client.aclose()

    async def _exchange(self, commands: Sequence[Command], is_lean: bool, in_turn: bool) -> list[Any]:
        try:
            async with asyncio.timeout(EXCHANGE_TIMEOUT), self._turn if in_turn else contextlib.nullcontext():
                backoff = Backoff(base=0.02, cap=0.2)
                for _ in range(TRIES - 1):
                    replies = await self._run(commands, is_lean)
                    if not any(map(is_not_serving, replies)):
                        return replies
                    self.evict()
                    await asyncio.sleep(backoff.next())
                return await self._run(commands, is_lean)
        except TimeoutError:
            raise unavailable("no answer in time", _TIMEOUT_RETRY_AFTER) from None

    async def _run(self, commands: Sequence[Command], is_lean: bool) -> list[Any]:
        if is_lean:
            return await self.post(self._lean, commands)
        if self._vendor is None:
            from tidewire.transports.upstash.vendor_client import VendorClient

            self._vendor = VendorClient(
                self._url,
                self.post,
                connections=CONNECTIONS + 1,
                read_timeout=READ_TIMEOUT,
                keepalive=KEEPALIVE,
                behind_proxy=self._behind_proxy,
            )
        return await self._vendor.run(commands)


async def _until_answered(post: Callable[[], Awaitable[Response]], evict: Callable[[], None]) -> Response:
    """Send the request until a response comes; `evict` is called if the connection was lost or silent.

    Sending it again is safe: every event has its id by now, and all other commands only read.
    """
    backoff = Backoff(base=0.02, cap=0.2)
    for attempt in range(1, TRIES + 1):
        try:
            response = await post()
        except ConnectionLost as error:
            evict()
            if attempt == TRIES:
                raise unavailable(error) from error
        except ReadTimeout as error:  # not again: a silent server would hold a publisher for several time-outs
            evict()
            raise unavailable("no answer in time", _TIMEOUT_RETRY_AFTER) from error
        except StoreError as error:
            raise unavailable(error) from error
        else:
            return response
        await asyncio.sleep(backoff.next())
    raise AssertionError


def _refused(response: Response) -> TransportUnavailable:
    """Return the error for a status, with the seconds until a caller should come back."""
    status = response.status
    named = _seconds(response.headers.get("retry-after"))
    error = unavailable(f"HTTP {status}", named or _RETRY_AFTER.get(status, 1))
    if named is not None or status == HTTPStatus.TOO_MANY_REQUESTS:
        return _PauseRequestedError(error.detail, error.retry_after)
    return error


class _PauseRequestedError(TransportUnavailable):
    """Upstash asked for no request for `retry_after` seconds."""


def _hold(error: Exception) -> float:
    return min(error.retry_after, HOLD_SECONDS) if isinstance(error, _PauseRequestedError) else 0.0


def _unchanged(error: Exception) -> TransportUnavailable:
    assert isinstance(error, TransportUnavailable)
    return error


def unavailable(error: Exception | str, retry_after: int = 1) -> TransportUnavailable:
    """Return the error for the caller; a text is ours, never one that came over the wire."""
    return errors.unavailable("Upstash", error, retry_after)


def _seconds(header: str | None) -> int | None:
    """Return the seconds of a Retry-After header (RFC 9110 section 10.2.3), None if there is no valid one."""
    if header is None:
        return None
    if header.isascii() and header.isdigit():
        seconds = float(header)
    else:
        try:
            moment = email.utils.parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(1, min(math.ceil(seconds), _MAX_RETRY_AFTER))
