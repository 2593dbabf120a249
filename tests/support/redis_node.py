"""A Redis among others: with a password or TLS, and with its own view of who replicates whom."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.support.certificates import certify
from tests.support.processes import HOST, START_SECONDS, RedisServer, ServerError, ServerProcess, wait_until

ADMIN_PASSWORD = "of-the-tests"  # of the user `default`, if clients log in as another user
ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Access:
    """What a server demands of its clients, and of the servers that it talks to.

    With a `user`, only that user has the `permissions`; the tests and the other servers log in as `default`.
    """

    user: str = ""
    password: str = ""
    permissions: str = "~* &* +@all"
    certificate: Path | None = None  # TLS, with this file as certificate, client certificate, and authority
    client_certificates: bool = False  # demand one

    @classmethod
    def over_tls(
        cls, folder: Path, *, user: str = "", password: str = "", client_certificates: bool = False
    ) -> "Access":
        """TLS with a certificate for 127.0.0.1, written to a folder."""
        certificate = folder / "server.pem"
        certify(certificate, "localhost")
        return cls(user, password, certificate=certificate, client_certificates=client_certificates)

    @property
    def key(self) -> Path | None:
        """The file of the certificate's private key."""
        return self.certificate and self.certificate.with_suffix(".key")

    @property
    def scheme(self) -> str:
        return "redis" if self.certificate is None else "rediss"

    @property
    def userinfo(self) -> str:
        """What stands before the address in a client's URL: empty, or `user:password@`."""
        return f"{quote(self.user)}:{quote(self.password, safe='')}@" if self.password else ""

    @property
    def query(self) -> dict[str, str]:
        """The options of a client's URL: none, or the certificate authority and the client certificate."""
        if self.certificate is None:
            return {}
        mine = {"ssl_certfile": str(self.certificate), "ssl_keyfile": str(self.key)} if self.client_certificates else {}
        return {"ssl_ca_certs": str(self.certificate), **mine}

    def url(self, hosts: str, kind: str = "", path: str = "", **options: str) -> str:
        """A client's URL: kind is empty, `+cluster` or `+sentinel`."""
        query = urlencode({**options, **self.query}, quote_via=quote, safe="/")
        return f"{self.scheme}{kind}://{self.userinfo}{hosts}{path}{query and '?' + query}"

    @property
    def admin_password(self) -> str:
        """The password of the user `default`; empty if there is none."""
        return ADMIN_PASSWORD if self.user else self.password

    def options(self, port: int) -> list[str]:
        """The arguments of a server that listens on a port."""
        listening = ["--port", str(port)]
        if self.certificate:
            listening = [
                *("--port", "0", "--tls-port", str(port)),
                *("--tls-cert-file", str(self.certificate), "--tls-key-file", str(self.key)),
                *("--tls-ca-cert-file", str(self.certificate)),
                *("--tls-auth-clients", "yes" if self.client_certificates else "optional"),
                *("--tls-replication", "yes"),
            ]
        password = self.admin_password
        users = ["--requirepass", password] if password else []
        if self.user:
            users += ["--user", *f"{self.user} on >{self.password} {self.permissions}".split()]
        return [*listening, *users]

    def connection(self, port: int) -> Any:
        """A connection as the user `default`, not opened yet; its replies are lists, integers and text."""
        how: dict[str, Any] = {
            "host": HOST,
            "port": port,
            "password": self.admin_password or None,
            "protocol": 2,
            "decode_responses": True,
            "socket_timeout": ANSWER_SECONDS,
        }
        if self.certificate:
            how |= {"ssl_ca_certs": self.certificate, "ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        kind: Any = redis.SSLConnection if self.certificate else redis.Connection  # it has no types
        return kind(**how)


OPEN = Access()
"""No password, no TLS."""


class RedisNode(RedisServer):
    """One server of several, in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        *,
        access: Access = OPEN,
        aof: bool = False,
        options: Sequence[str] = (),
        kind: str = "redis",
    ) -> None:
        super().__init__(folder, aof=aof, options=options, kind=kind)
        self.access = access
        own = folder / str(self.port)
        own.mkdir()
        replication = ["--masterauth", access.admin_password] if access.admin_password else []
        self._options = [
            *("--dir", str(own)),
            *("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"),  # 5 s is the default
            *access.options(self.port),
            *replication,
            *self._options,
        ]
        self._paused = False

    @property
    def url(self) -> str:
        """The address of this server alone."""
        return self.access.url(self.address)

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.port}>"

    def is_ready(self) -> bool:
        try:
            return bool(self.call("PING") == "PONG")
        except (RedisError, OSError):
            return False

    @property
    def answers(self) -> bool:
        """Whether it runs and is not paused."""
        return self.is_running() and not self._paused

    def ask(self, command: str) -> str:
        """As RedisServer: the first line of the reply, a simple string after `+`, an error after `-`."""
        with self.connected() as connection:
            connection.send_command(*command.split(), check_health=False)
            try:
                reply = connection.read_response()
            except ResponseError as error:
                return f"-{error}"
        if isinstance(reply, int):
            return f":{reply}"
        return f"*{len(reply)}" if isinstance(reply, list) else f"+{reply}"

    def call(self, *words: object) -> Any:
        """The reply to a command: text, an integer, None or a list; raises redis.exceptions.RedisError."""
        with self.connected() as connection:
            connection.send_command(*words, check_health=False)
            return connection.read_response()

    def write(self, *words: object, copies: int) -> Any:
        """The reply to a command that writes, once this many replicas have it; raises ServerError if they do not.

        A replica that has just got all data has a link, and is sent nothing more for up to a second.
        """
        with self.connected() as connection:  # one, for WAIT is about the writes of its own connection
            connection.send_command(*words, check_health=False)
            reply = connection.read_response()
            connection.send_command("WAIT", copies, round(ANSWER_SECONDS * 1000) - 500, check_health=False)
            if (had := connection.read_response()) < copies:
                raise ServerError(f"{self}: {had} of {copies} replicas have the write")
        return reply

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """A connection of its own, as the user `default`."""
        connection = self.access.connection(self.port)
        try:
            connection.connect()
            yield connection
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise OSError(f"{self} does not answer") from error
        finally:
            connection.disconnect()

    def info(self, section: str) -> dict[str, str]:
        """A section of INFO."""
        lines = str(self.call("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def role(self) -> str:
        """`master` or `slave`, as the server itself has it."""
        return self.info("replication")["role"]

    def is_linked(self) -> bool:
        """Whether it is a replica that has its primary's data and receives each change."""
        replication = self.info("replication")
        return replication["role"] == "slave" and replication["master_link_status"] == "up"

    def pause(self) -> None:
        super().pause()
        self._paused = True

    def resume(self) -> None:
        super().resume()
        self._paused = False

    def restart(self, *, empty: bool = False) -> None:
        """As RedisServer; `empty`: without the files that it wrote, as a new machine has."""
        self.stop()
        if empty:
            own = self.folder / str(self.port)
            shutil.rmtree(own)
            own.mkdir()
        self._paused = False
        self.start()


def start_all(servers: Sequence[ServerProcess]) -> None:
    """Start them at once; raises ServerError for one that does not start."""
    with ThreadPoolExecutor(len(servers)) as pool:
        list(pool.map(lambda server: server.start(), servers))


def stop_all(servers: Sequence[ServerProcess]) -> None:
    """Kill them, paused or not: in order, each would first wait for its replicas."""
    for server in servers:
        server.kill()


def await_that(what: str, holds: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Return once it holds; raises ServerError after the deadline. Servers that do not answer alike yet count as no."""

    def tried() -> bool:
        try:
            return holds()
        except (RedisError, OSError, ServerError):
            return False

    try:
        wait_until(tried, seconds)
    except TimeoutError:
        raise ServerError(f"not within {seconds:g} s: {what}") from None
