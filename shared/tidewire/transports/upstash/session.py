"""Upstash's REST API, one exchange at a time: commands as JSON over HTTP.

What starts cold (a function that publishes, takes from a bucket or is asked for its health) sends them by `LeanHttp`;
what lives long and reads goes by the vendor's client, `upstash-redis`, whose import alone takes longer than a cold
start. Both by the same rules: what is tried again, what a refusal means, which reply belongs to which command.
"""

import asyncio
import contextlib
import email.utils
import math
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from tidewire.errors import TransportUnavailable
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.circuit_breaker import Circuit
from tidewire.transports.lean_http import Answer, BrokenError, LeanHttp, LostError, SilentError
from tidewire.transports.redis import refusals
from tidewire.transports.redis.layout import Arguments

if TYPE_CHECKING:
    from tidewire.transports.upstash.client import VendorClient

PHASE_SECONDS = 5.0  # without a byte; a publisher hears 503 after it, not after minutes
EXCHANGE_SECONDS = 20.0  # for all of it: a crowd before us, a page of large events on a slow line, a server that drips
CONNECTIONS = 16  # a crowd waits for its turn; the tail does not, it has a connection of its own
TRIES = 3  # after a lost connection: a frozen function comes back with connections that have died meanwhile
IDLE_SECONDS = 60.0  # that a connection is kept: longer than the slowest usual poll, or each would shake hands anew
TOO_LARGE = "max request size exceeded"  # what Upstash says of a request, and of an answer
HOLD_SECONDS = 30.0  # the longest that a refusal keeps us away, whatever it asks for

_RETRY_AFTER = {401: 30, 403: 30, 429: 5}  # seconds where the answer names none: no client can mend a wrong token
_NO_ANSWER_RETRY_AFTER = math.ceil(PHASE_SECONDS)
_MOST_RETRY_AFTER = 3_600

_PROXIES = ("https_proxy", "http_proxy", "all_proxy")

Command = list[str | int]
Road = Callable[[Sequence[Command]], Awaitable[list[Any]]]
Post = Callable[[bytes], Awaitable[Answer]]
"""Sends a body to Upstash. Raises LostError, SilentError and BrokenError."""


class CommandError(Exception):
    """Redis refused one command. `text` may hold data and is for the code; only `code` may be told."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        limit = re.search(r"max [a-z ]{1,40} exceeded", text)
        self.code = limit[0] if limit else refusals.code_of(text)


class _Reply(msgspec.Struct):
    result: Any = None
    error: str | None = None


_replies = msgspec.json.Decoder(list[_Reply])
_reply = msgspec.json.Decoder(_Reply)


class Session:
    """Runs commands over REST, several in one request.

    No base64 is asked for: all that is stored is UTF-8, and a third more bytes would be paid for.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token
        self._sync_token = ""
        self._circuit = Circuit((TransportUnavailable,), _as_it_is, _hold)
        self._turn = asyncio.Semaphore(CONNECTIONS)
        self._lean = LeanHttp(url, silence=PHASE_SECONDS, idle=IDLE_SECONDS)
        self._path = f"{urlsplit(url).path}/pipeline"
        self._vendor: VendorClient | None = None
        self._behind_proxy = any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES)

    async def send(
        self, commands: Sequence[Arguments], *, in_turn: bool = True, ask: bool = False, cold: bool = False
    ) -> list[Any]:
        """Return the replies of commands that are run in order in one request; a refused one's is a CommandError.

        Raises TransportUnavailable: then nothing is known of what was run. `ask`: see `Circuit.run`. `cold` is for what
        a function does that has just started: without the vendor's client, unless HTTPS_PROXY or the like is set, which
        only that one knows.
        """
        texts = [[part.decode() if isinstance(part, bytes) else part for part in command] for command in commands]
        road = self._by_lean_http if cold and not self._behind_proxy else self._by_vendor
        return await self._circuit.run(lambda: self._exchange(texts, road, in_turn), ask=ask)

    @property
    def is_away(self) -> bool:
        """Whether the last requests were lost."""
        return self._circuit.is_open

    @property
    def held(self) -> float:
        """Seconds until `send` asks again; longer where Upstash asked to be left alone."""
        return self._circuit.left

    async def aclose(self) -> None:
        """Close every connection."""
        await self._lean.aclose()
        if self._vendor is not None:
            await self._vendor.aclose()

    async def _exchange(self, commands: Sequence[Command], road: Road, in_turn: bool) -> list[Any]:
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS), self._turn if in_turn else contextlib.nullcontext():
                backoff = Backoff(base=0.02, cap=0.2)
                for _ in range(TRIES - 1):
                    replies = await road(commands)
                    if not any(isinstance(r, CommandError) and r.code in refusals.ELSEWHERE for r in replies):
                        return replies
                    self.condemn()
                    await asyncio.sleep(backoff.next())
                return await road(commands)
        except TimeoutError:
            raise unavailable("no answer in time", _NO_ANSWER_RETRY_AFTER) from None

    def condemn(self) -> None:
        """Use no connection again that is open now: what a NAT or a failover has done to one it has done to all."""
        self._lean.condemn()
        if self._vendor is not None:
            self._vendor.renew()

    async def _by_lean_http(self, commands: Sequence[Command]) -> list[Any]:
        headers = {"authorization": f"Bearer {self._token}", "content-type": "application/json"}
        self.add_sync_token(headers)
        return await self.answered(lambda body: self._lean.post(self._path, headers, body), commands)

    async def _by_vendor(self, commands: Sequence[Command]) -> list[Any]:
        if self._vendor is None:
            from tidewire.transports.upstash.client import VendorClient

            self._vendor = VendorClient(
                self._url,
                self._token,
                self.answered,
                self.add_sync_token,
                connections=CONNECTIONS + 1,
                silence=PHASE_SECONDS,
                idle=IDLE_SECONDS,
                behind_proxy=self._behind_proxy,
            )
        return await self._vendor.run(commands)

    def add_sync_token(self, headers: dict[str, str]) -> None:
        """Ask a replica to answer only once it holds what this process has seen."""
        headers["upstash-sync-token"] = self._sync_token

    async def answered(self, post: Post, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to commands that `post` sends. Raises TransportUnavailable."""
        answer = await _until_answered(post, msgspec.json.encode(commands), self.condemn)
        self._sync_token = answer.headers.get("upstash-sync-token") or self._sync_token
        try:
            if answer.status == HTTPStatus.OK:
                replies = _replies.decode(answer.content)
            elif answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                replies = [_Reply(error=f"ERR {TOO_LARGE}")] * len(commands)  # by a proxy in front of it
            elif answer.status == HTTPStatus.BAD_REQUEST:
                replies = [_reply.decode(answer.content)] * len(commands)  # refused as a whole
            else:
                raise _refused(answer)
        except msgspec.DecodeError:
            raise unavailable("an answer that is not Upstash's") from None
        if len(replies) != len(commands):
            raise unavailable("an answer that is not Upstash's")
        return [reply.result if reply.error is None else CommandError(reply.error) for reply in replies]


async def _until_answered(post: Post, body: bytes, condemn: Callable[[], None]) -> Answer:
    """Send the request until an answer comes; `condemn` is called for a connection that was lost or silent.

    To send it again is safe: every event has its id by now, and what else is sent only reads.
    """
    backoff = Backoff(base=0.02, cap=0.2)
    for attempt in range(1, TRIES + 1):
        try:
            return await post(body)
        except LostError as error:
            condemn()
            if attempt == TRIES:
                raise unavailable(str(error)) from error
        except SilentError as error:  # not again: a silent server would hold a publisher for several
            condemn()
            raise unavailable("no answer in time", _NO_ANSWER_RETRY_AFTER) from error
        except BrokenError as error:
            raise unavailable(str(error)) from error
        await asyncio.sleep(backoff.next())
    raise AssertionError


def _refused(answer: Answer) -> TransportUnavailable:
    """Return the error that says for how long to stay away."""
    status = answer.status
    named = _seconds(answer.headers.get("retry-after"))
    error = unavailable(f"HTTP {status}", named or _RETRY_AFTER.get(status, 1))
    if named is not None or status == HTTPStatus.TOO_MANY_REQUESTS:
        return _AskedToWaitError(error.detail, error.retry_after)
    return error


class _AskedToWaitError(TransportUnavailable):
    """Upstash asks to be left alone for `retry_after` seconds."""


def _hold(error: Exception) -> float:
    return min(error.retry_after, HOLD_SECONDS) if isinstance(error, _AskedToWaitError) else 0.0


def _as_it_is(error: Exception) -> TransportUnavailable:
    assert isinstance(error, TransportUnavailable)
    return error


def unavailable(reason: str, retry_after: int = 1) -> TransportUnavailable:
    """Return the error for the caller; `reason` is ours or a code, never a text that came over the wire."""
    return refusals.unavailable("Upstash", reason, reason, retry_after)


def _seconds(header: str | None) -> int | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110 section 10.2.3), None where it does not."""
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
    return max(1, min(math.ceil(seconds), _MOST_RETRY_AFTER))
