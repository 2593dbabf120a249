"""Upstash's REST API, one exchange at a time: commands as JSON over HTTP, by way of the vendor's client."""

import asyncio
import contextlib
import email.utils
import logging
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import shared.transports.lean_httpx  # isort: skip  # before anything that imports httpx  # noqa: F401
import httpx
import msgspec
from upstash_redis.asyncio.client import AsyncPipeline
from upstash_redis.http import AsyncHttpClient, make_headers

from shared.backoff import Backoff
from shared.errors import TransportUnavailable
from shared.transports.circuit import Circuit
from shared.transports.redis_layout import Arguments

PHASE_SECONDS = 5.0  # without a byte; a publisher hears 503 after it, not after minutes
EXCHANGE_SECONDS = 20.0  # for all of it: a crowd before us, a page of large events on a slow line, a server that drips
CONNECTIONS = 16  # a crowd waits for its turn; the tail does not, it has a connection of its own
TRIES = 3  # after a lost connection: a frozen function comes back with connections that have died meanwhile
IDLE_SECONDS = 60.0  # that a connection is kept: longer than the slowest usual poll, or each would shake hands anew
HOLD_SECONDS = 30.0  # the longest that a refusal keeps us away, whatever it asks for

_RETRY_AFTER = {401: 30, 403: 30, 429: 5}  # seconds where the answer names none: no client can mend a wrong token
_NO_ANSWER_RETRY_AFTER = math.ceil(PHASE_SECONDS)
_MOST_RETRY_AFTER = 3_600
_LOST = (httpx.NetworkError, httpx.RemoteProtocolError)


class CommandError(Exception):
    """Redis refused one command. `text` may hold data and is for the code; only `code` may be told."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        limit = re.search(r"max [a-z ]{1,40} exceeded", text)
        word = re.match(r"[A-Z]{2,16}\b", text)
        self.code = limit[0] if limit else word[0] if word else "error"


class _Reply(msgspec.Struct):
    result: Any = None
    error: str | None = None


_replies = msgspec.json.Decoder(list[_Reply])
_reply = msgspec.json.Decoder(_Reply)


class Session:
    """Runs commands over REST, with the parts of the vendor's client; its `Redis` would open a second HTTP client.

    Telemetry is off, and so is base64: all that is stored is UTF-8, and a third more bytes would be paid for.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._headers = make_headers(token, None, allow_telemetry=False)
        self._http = _Http()
        self._circuit = Circuit((TransportUnavailable,), _as_it_is, _hold)
        self._turn = asyncio.Semaphore(CONNECTIONS)
        if logging.getLogger("httpx").level == logging.NOTSET:
            logging.getLogger("httpx").setLevel(logging.WARNING)  # its lines for each request hold the URL

    async def send(self, commands: Sequence[Arguments], *, in_turn: bool = True, ask: bool = False) -> list[Any]:
        """Return the replies of commands that are run in order in one request; a refused one's is a CommandError.

        Raises TransportUnavailable: then nothing is known of what was run. `ask`: see `Circuit.run`.
        """
        return await self._circuit.run(lambda: self._exchange(commands, in_turn), ask=ask)

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
        await self._http.close()

    async def _exchange(self, commands: Sequence[Arguments], in_turn: bool) -> list[Any]:
        pipeline = AsyncPipeline(self._url, self._headers, self._http, "pipeline", self._http.add_sync_token, None)
        for command in commands:
            pipeline.execute([part.decode() if isinstance(part, bytes) else part for part in command])
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS), self._turn if in_turn else contextlib.nullcontext():
                return list(await pipeline.exec())
        except TimeoutError:
            raise unavailable("no answer in time", _NO_ANSWER_RETRY_AFTER) from None


class _Http(AsyncHttpClient):
    """The vendor's HTTP client with what it lacks.

    Its own looks at no status (a refused pipeline is an AttributeError there), forgets Retry-After, waits for an
    answer without end, and keeps of a pipeline only the first error.
    """

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(
            timeout=PHASE_SECONDS,
            limits=httpx.Limits(
                max_connections=CONNECTIONS + 1,
                max_keepalive_connections=CONNECTIONS + 1,
                keepalive_expiry=IDLE_SECONDS,
            ),
        )
        self._sync_token = ""

    def add_sync_token(self, headers: dict[str, str]) -> None:
        """Ask a replica to answer only once it holds what this process has seen."""
        headers["upstash-sync-token"] = self._sync_token

    async def close(self) -> None:
        await self._client.aclose()

    async def execute(
        self, url: str, headers: dict[str, str], command: list[Any], from_pipeline: bool = False
    ) -> list[Any]:
        assert from_pipeline, "one road for one command and for many"
        response = await self._post(url, {**headers, "content-type": "application/json"}, command)
        self._sync_token = response.headers.get("upstash-sync-token") or self._sync_token
        try:
            if response.status_code == httpx.codes.OK:
                replies = _replies.decode(response.content)
            elif response.status_code == httpx.codes.BAD_REQUEST:
                replies = [_reply.decode(response.content)] * len(command)  # refused as a whole
            else:
                raise self._refused(response)
        except msgspec.DecodeError:
            raise unavailable("an answer that is not Upstash's") from None
        if len(replies) != len(command):
            raise unavailable("an answer that is not Upstash's")
        return [reply.result if reply.error is None else CommandError(reply.error) for reply in replies]

    async def _post(self, url: str, headers: dict[str, str], command: list[Any]) -> httpx.Response:
        """Send the request until an answer comes.

        To send it again is safe: every event has its id by now, and what else is sent only reads.
        """
        body = msgspec.json.encode(command)
        backoff = Backoff(base=0.02, cap=0.2)
        for attempt in range(1, TRIES + 1):
            try:
                return await self._client.post(url, headers=headers, content=body)
            except _LOST as error:
                if attempt == TRIES:
                    raise unavailable(type(error).__name__) from error
            except httpx.TimeoutException as error:  # not again: a silent server would hold a publisher for several
                raise unavailable(type(error).__name__, _NO_ANSWER_RETRY_AFTER) from error
            except httpx.HTTPError as error:
                raise unavailable(type(error).__name__) from error
            await asyncio.sleep(backoff.next())
        raise AssertionError

    def _refused(self, response: httpx.Response) -> TransportUnavailable:
        """Return the error that says for how long to stay away."""
        status = response.status_code
        named = _seconds(response.headers.get("retry-after"))
        error = unavailable(f"HTTP {status}", named or _RETRY_AFTER.get(status, 1))
        if named is not None or status == httpx.codes.TOO_MANY_REQUESTS:
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
    return TransportUnavailable(f"Upstash cannot be used now ({reason})", retry_after)


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
