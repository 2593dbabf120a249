"""What a Postgres URL may hold: hosts, ports, and settings that are known; checked without a driver."""

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from tidewire.errors import SettingsError

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

DRIVER = frozenset(
    (
        *("host", "port", "dbname", "database", "user", "password", "passfile", "krbsrvname", "gsslib"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version"),
    )
)
"""Settings that the driver takes."""

SERVER = frozenset(
    (
        *("application_name", "options", "search_path", "statement_timeout", "lock_timeout", "timezone"),
        *("idle_in_transaction_session_timeout", "idle_session_timeout"),
    )
)
"""Settings that the driver passes to the server; `options=-c name=value` passes any other."""

UNUSED = frozenset(
    (
        *("channel_binding", "connect_timeout", "gssencmode", "keepalives", "keepalives_count", "keepalives_idle"),
        *("keepalives_interval", "load_balance_hosts", "require_auth", "requirepeer", "sslcompression", "sslsni"),
        *("tcp_user_timeout", "connection_limit", "pgbouncer", "pool_timeout", "schema", "statement_cache_size"),
        *("target_session_attrs", "client_encoding", "fallback_application_name"),
    )
)
"""Settings of libpq and of other drivers, with which hosts hand out URLs: taken, and not passed on."""

TARGETS = ("any", "read-write", "primary")
"""Values of `target_session_attrs`. All three mean the first host that takes writes: nothing can be read elsewhere."""

Host = tuple[str | None, int | None]
"""None: the driver's default."""


class Address(NamedTuple):
    """A URL without its hosts and without what the driver would not understand, and its hosts in order."""

    url: str
    hosts: tuple[Host, ...]
    pooled: bool


def parse_address(url: str) -> Address:
    """Return what to connect to. Raises ValueError where a host or a port is none."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    credentials, at, _ = parts.netloc.rpartition("@")
    kept = {name: value for name, value in query.items() if name in DRIVER | SERVER and name not in ("host", "port")}
    bare = urlunsplit(parts._replace(netloc=f"{credentials}{at}", query=urlencode(kept)))
    return Address(bare, _hosts(parts, query), is_pooled(url))


def check_url(variable: str, url: str) -> None:
    """Raise SettingsError where the URL is none, or has a setting that nobody would heed."""
    try:
        parts = urlsplit(url)
        scheme, query = parts.scheme, dict(parse_qsl(parts.query, keep_blank_values=True))
        if scheme in ("postgres", "postgresql"):
            _hosts(parts, query)
    except ValueError:
        raise SettingsError(variable, "is not a URL: after the @ stand hosts and ports, host:5432,other:5432") from None
    if scheme not in ("postgres", "postgresql"):
        raise SettingsError(variable, "must begin with postgres:// or postgresql://")
    unknown = sorted(query.keys() - DRIVER - SERVER - UNUSED)
    if unknown:
        raise SettingsError(
            variable,
            f"has settings that are not known: {', '.join(name[:40] for name in unknown)}; a setting of the server's is"
            " written options=-c%20name%3Dvalue",
        )
    if query.get("sslmode", "prefer") not in SSL_MODES:
        raise SettingsError(variable, f"sslmode must be one of {', '.join(SSL_MODES)}")
    if query.get("target_session_attrs", "any") not in TARGETS:
        raise SettingsError(variable, "target_session_attrs must be read-write or primary: a standby takes no events")


def is_pooled(url: str) -> bool:
    """Return whether a transaction pooler is known to answer: Neon's `-pooler` hosts, or one marked `pgbouncer=true`.

    A pooler gives each transaction another session: LISTEN would be forgotten at once.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    hosts = f"{parts.netloc.rpartition('@')[2]},{query.get('host', '')}"
    return "-pooler" in hosts or query.get("pgbouncer") == "true"


def _hosts(parts: SplitResult, query: Mapping[str, str]) -> tuple[Host, ...]:
    in_query = query.get("host", "") if not parts.netloc.rpartition("@")[2] else ""
    listed = in_query or parts.netloc.rpartition("@")[2]
    hosts = [_host(text) for text in listed.split(",")] if listed else [(None, None)]
    ports = [_port(text) for text in query.get("port", "").split(",")]
    if len(ports) not in (1, len(hosts)):
        raise ValueError("as many ports as hosts, or one for all")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    return tuple((host, port or other) for (host, port), other in zip(hosts, ports, strict=True))


def _host(text: str) -> Host:
    if text.startswith("["):  # IPv6
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not host or rest[:1] not in ("", ":"):
            raise ValueError("no host")
        return host, _port(rest[1:])
    if text.startswith("/"):  # a folder with a Unix socket
        return text, None
    host, _, port = text.partition(":")
    return unquote(host) or None, _port(port)


def _port(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65_536):
        raise ValueError("no port")
    return int(text)
