"""The addresses of Redis servers, with the credentials and the TLS context for each."""

import ssl
from collections.abc import Sequence
from typing import NamedTuple

from tidewire.settings.redis_url import Kind, RedisUrl, parse_redis_url, wrong
from tidewire.transports.sockets import client_context

Command = Sequence[str | bytes | int]


class Address(NamedTuple):
    """A server's address and the credentials for it; it can be the key of a dict."""

    host: str
    port: int
    path: str | None  # of a Unix socket, instead of host and port
    tls: ssl.SSLContext | None
    handshake: tuple[Command, ...]  # AUTH and SELECT, if they are needed

    @property
    def name(self) -> str:
        """The server's name for operators: `host:port`, or the path of a socket."""
        return self.path or f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Return the address of one server: `redis://`, `rediss://` or `unix://`. Raises SettingsError."""
        servers = Servers.parse(url)
        if servers.kind != "single":
            raise wrong("must name one server: redis://, rediss:// or unix://")
        return servers.seeds[0]


class Servers(NamedTuple):
    """What a `REDIS_URL` names, and the credentials for each server that discovery names later."""

    kind: Kind
    seeds: tuple[Address, ...]  # the server; or the sentinels, with their own credentials; or nodes of the cluster
    service: str  # the name of the primary at the sentinels, else ''
    tls: ssl.SSLContext | None  # of data nodes, as the handshake
    handshake: tuple[Command, ...]

    @classmethod
    def parse(cls, url: str) -> "Servers":
        """Read a URL as `parse_redis_url` does, and the files that it names. Raises SettingsError."""
        parsed = parse_redis_url(url)
        to_sentinels = parsed.is_on("sentinel_ssl", default=parsed.kind == "sentinel" and parsed.tls)
        context = _context(parsed) if parsed.tls or to_sentinels else None
        tls = context if parsed.tls else None
        handshake = _auth(parsed.user, parsed.password)
        if parsed.db:
            handshake = (*handshake, ("SELECT", str(parsed.db)))
        own = tls, handshake
        if parsed.kind == "sentinel":
            user, password = (parsed.options.get(f"sentinel_{name}", "") for name in ("username", "password"))
            own = context if to_sentinels else None, _auth(user, password)
        seeds = tuple(Address(host, port, parsed.socket, *own) for host, port in parsed.places)
        return cls(parsed.kind, seeds, parsed.service, tls, handshake)

    def node(self, host: str, port: int) -> Address:
        """Return the address of a data node that discovery names."""
        return Address(host, port, None, self.tls, self.handshake)


def _auth(user: str, password: str) -> tuple[Command, ...]:
    if not password:
        return ()
    return (("AUTH", user, password) if user else ("AUTH", password),)


def _context(url: RedisUrl) -> ssl.SSLContext:
    options = url.options
    try:
        context = client_context(options.get("ssl_ca_certs"), verify=options.get("ssl_cert_reqs") != "none")
    except OSError:
        raise wrong("ssl_ca_certs does not name a file with certificates") from None
    if not url.is_on("ssl_check_hostname", default=True):
        context.check_hostname = False
    if (certificate := options.get("ssl_certfile")) is not None:
        try:  # without a password, OpenSSL would ask for one on the terminal
            context.load_cert_chain(certificate, options.get("ssl_keyfile"), options.get("ssl_password", ""))
        except (OSError, ValueError):
            raise wrong("ssl_certfile, ssl_keyfile and ssl_password do not open a certificate and its key") from None
    return context
