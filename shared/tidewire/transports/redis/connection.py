"""One connection to Redis: commands packed and replies read by hiredis, on a transport of the loop, nothing between.

redis-py's connections cost each command a tenth of a millisecond, more than a script takes in Redis, and their import
costs a function that starts cold as much as all of its own. Both matter where one command is all that a call does.
The protocol is RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/).
"""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import hiredis

from tidewire.errors import SettingsError
from tidewire.transports.keepalive import keep_alive
from tidewire.transports.redis.refusals import code_of
from tidewire.transports.tls import client_context

Command = Sequence[str | bytes | int]

OPTIONS = ("db", "ssl_ca_certs", "ssl_cert_reqs")


class RedisFailure(Exception):
    """What goes wrong with Redis. The text is ours or a code, never what came over the wire."""


class LostError(RedisFailure):
    """The connection could not be made, or broke: what was sent may have been done."""


class ElsewhereError(LostError):
    """The server does not do its work now, or not any more; `code` is its word. Another connection may help."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


class SilentError(RedisFailure):
    """Nothing came in time."""


class RefusedError(RedisFailure):
    """Redis refused one command; `code` is the first word of its answer: NOSCRIPT, OOM, READONLY …"""

    def __init__(self, text: str) -> None:
        self.code = code_of(text)
        super().__init__(self.code)


class Address(NamedTuple):
    """Where Redis is, and who we are to it."""

    host: str
    port: int
    path: str | None  # of a socket, instead of host and port
    tls: ssl.SSLContext | None
    greeting: tuple[Command, ...]  # AUTH and SELECT, where they are needed

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read `redis://[[user]:password@]host[:port][/db]`, `rediss://…` or `unix://…/path?db=…`.

        Options: `db`, `ssl_ca_certs` (a file), `ssl_cert_reqs=none` (any certificate). Raises SettingsError.
        """
        parts = urlsplit(url)
        given = parse_qsl(parts.query, keep_blank_values=True)
        options = dict(given)
        _check(parts, options, len(given))
        tls = None
        if parts.scheme == "rediss":
            verify = options.get("ssl_cert_reqs", "required")
            if verify not in ("required", "none"):
                raise SettingsError("REDIS_URL", "ssl_cert_reqs must be required or none")
            try:
                tls = client_context(options.get("ssl_ca_certs"), verify=verify == "required")
            except OSError:
                raise SettingsError("REDIS_URL", "ssl_ca_certs names no file with certificates") from None
        local = parts.scheme == "unix"
        db = options.get("db") or ("" if local else parts.path.strip("/")) or "0"
        if not (db.isascii() and db.isdigit() and len(db) < 6):
            raise SettingsError("REDIS_URL", "the database after the last / must be a number")
        greeting: list[Command] = []
        if parts.password:
            user = [unquote(parts.username)] if parts.username else []
            greeting.append(["AUTH", *user, unquote(parts.password)])
        if db != "0":
            greeting.append(["SELECT", db])
        return cls(
            parts.hostname or "localhost",
            parts.port or 6379,
            unquote(parts.path) if local else None,
            tls,
            tuple(greeting),
        )


def _check(parts: SplitResult, options: Mapping[str, str], given: int) -> None:
    """Refuse what would be left out in silence. Raises SettingsError."""
    local, secure = parts.scheme == "unix", parts.scheme == "rediss"
    path = parts.path.strip("/")
    problem = None
    if unknown := sorted(options.keys() - set(OPTIONS)):
        problem = f"has an option that is not known ({unknown[0]}): it takes {', '.join(OPTIONS)}"
    elif given > len(options):
        problem = "has an option twice"
    elif not secure and (needing := sorted(name for name in options if name.startswith("ssl_"))):
        problem = f"has the option {needing[0]}, which needs rediss://"
    elif not local and path and options.get("db", path) != path:
        problem = "names two databases, after the last / and as db"
    elif parts.fragment:
        problem = "has a #: in a password write it %23, and / as %2F, ? as %3F, @ as %40"
    elif parts.username and not parts.password:
        problem = "names a user without a password: write redis://user:password@host"
    elif local and (parts.hostname or not path):
        problem = "must name the socket with its whole path: unix:///run/redis.sock"
    elif secure and not parts.hostname:
        problem = "names no host, whose certificate could be checked"
    elif parts.port == 0:
        problem = "has the port 0"
    if problem is not None:
        raise SettingsError("REDIS_URL", problem)


class Connection(asyncio.Protocol):
    """A connection that one caller uses at a time."""

    def __init__(self, address: Address) -> None:
        """Make one that is not connected yet."""
        self._address = address
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(protocolError=LostError, replyError=RefusedError)
        self._replies: list[Any] = []
        self._wanted = 0
        self._answered: asyncio.Future[None] | None = None
        self._deadline: asyncio.Timeout | None = None
        self._silence = 0.0

    @property
    def usable(self) -> bool:
        """Whether it is connected, and was when the loop last looked."""
        return self._transport is not None and not self._transport.is_closing()

    async def connect(self, seconds: float) -> None:
        """Connect and say who we are. Raises LostError and SilentError."""
        loop = asyncio.get_running_loop()
        at = self._address
        try:
            async with asyncio.timeout(seconds):
                if at.path is not None:
                    await loop.create_unix_connection(lambda: self, at.path)
                else:
                    await loop.create_connection(lambda: self, at.host, at.port, ssl=at.tls)
        except TimeoutError:
            raise SilentError("no connection in time") from None
        except OSError as error:
            raise LostError(type(error).__name__) from error
        if at.greeting:
            for command, reply in zip(at.greeting, await self.call(at.greeting, seconds), strict=True):
                if isinstance(reply, RefusedError):
                    self.close()
                    if command[0] == "SELECT" and reply.code == "ERR":
                        raise LostError(f"the server has no database {int(command[1])}, which REDIS_URL names")
                    raise ElsewhereError(reply.code)  # WRONGPASS, NOAUTH: to be tried again, for it may be mended

    async def call(self, commands: Sequence[Command], silence: float, *, first: float | None = None) -> list[Any]:
        """Return the replies to `commands`, sent in one write; that of a refused one is a RefusedError.

        Raises LostError, and SilentError after `silence` seconds without a byte, or `first` seconds without the first
        one. Whoever is cancelled closes it: the rest of the replies must not be read by the next caller.
        """
        if self._transport is None or self._transport.is_closing():  # to write there is a RuntimeError with uvloop
            raise LostError("closed")
        packed = b"".join([hiredis.pack_command(tuple(command)) for command in commands])  # type: ignore[arg-type]  # any length
        self._replies, self._wanted, self._silence = [], len(commands), silence
        self._answered = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(packed)
            async with asyncio.timeout(silence if first is None else first) as self._deadline:
                await self._answered
        except TimeoutError:
            self.close()
            raise SilentError("no answer in time") from None
        except BaseException:
            self.close()
            raise
        finally:
            self._answered = self._deadline = None
        return self._replies

    def close(self) -> None:
        """Close it at once; a call under way is lost."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note where to write to."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one only by its methods
        keep_alive(transport)

    def data_received(self, data: bytes) -> None:
        """Read what is there."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._replies.append(reply)
        except LostError as error:  # not RESP
            self._lose(LostError(type(error).__name__))
            self.close()
            return
        if self._answered is None or len(self._replies) > self._wanted:
            self.close()  # nobody has asked for it: what comes next would be taken for another's
            self._lose(LostError("more replies than commands"))
        elif len(self._replies) == self._wanted:
            if not self._answered.done():
                self._answered.set_result(None)
        elif self._deadline is not None and not self._answered.done():
            self._deadline.reschedule(asyncio.get_running_loop().time() + self._silence)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the caller."""
        self._lose(LostError("EOF" if exc is None else type(exc).__name__))

    def _lose(self, error: LostError) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)
