"""Postgres URLs: hosts, ports and connection parameters, checked without a driver."""

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
"""Parameters of the driver."""

SERVER = frozenset(
    (
        *("application_name", "options", "search_path", "statement_timeout", "lock_timeout", "timezone"),
        *("idle_in_transaction_session_timeout", "idle_session_timeout"),
    )
)
"""Parameters that the driver passes to the server; `options=-c name=value` passes any other one."""

UNUSED = frozenset(
    (
        *("channel_binding", "connect_timeout", "gssencmode", "keepalives", "keepalives_count", "keepalives_idle"),
        *("keepalives_interval", "load_balance_hosts", "require_auth", "requirepeer", "sslcompression", "sslsni"),
        *("tcp_user_timeout", "connection_limit", "pgbouncer", "pool_timeout", "schema", "statement_cache_size"),
        *("target_session_attrs", "client_encoding", "fallback_application_name"),
    )
)
"""Parameters of libpq and of other drivers that database hosts put into URLs: accepted and ignored."""

TARGETS = ("any", "read-write", "primary")
"""Accepted values of `target_session_attrs`. All three select the first host that accepts writes."""

Host = tuple[str | None, int | None]
"""Host and port; None selects the driver's default."""


class Address(NamedTuple):
    """A URL without its hosts and without parameters that the driver does not know, and its hosts in order."""

    url: str
    hosts: tuple[Host, ...]
    pooled: bool


def parse_address(url: str) -> Address:
    """Return the address in a URL. Raises ValueError if a host or a port is malformed."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    credentials, at, _ = parts.netloc.rpartition("@")
    kept = {name: value for name, value in query.items() if name in DRIVER | SERVER and name not in ("host", "port")}
    bare = urlunsplit(parts._replace(netloc=f"{credentials}{at}", query=urlencode(kept)))
    return Address(bare, _hosts(parts, query), is_pooled(url))


def check_url(variable: str, url: str) -> None:
    """Raise SettingsError if the URL is malformed, or has a parameter that would have no effect."""
    try:
        parts = urlsplit(url)
        scheme, query = parts.scheme, dict(parse_qsl(parts.query, keep_blank_values=True))
        if scheme in ("postgres", "postgresql"):
            _hosts(parts, query)
    except ValueError:
        raise SettingsError(
            variable, "is not a URL: after the @ it must have hosts and ports such as host:5432,other:5432"
        ) from None
    if scheme not in ("postgres", "postgresql"):
        raise SettingsError(variable, "must begin with postgres:// or postgresql://")
    unknown = sorted(query.keys() - DRIVER - SERVER - UNUSED)
    if unknown:
        raise SettingsError(
            variable,
            f"has unknown parameters: {', '.join(name[:40] for name in unknown)}; write a server setting as"
            " options=-c%20name%3Dvalue",
        )
    if query.get("sslmode", "prefer") not in SSL_MODES:
        raise SettingsError(variable, f"sslmode must be one of {', '.join(SSL_MODES)}")
    if query.get("target_session_attrs", "any") not in TARGETS:
        raise SettingsError(variable, "target_session_attrs must be read-write or primary: a standby accepts no events")


def is_pooled(url: str) -> bool:
    """Return whether the URL is that of a transaction pooler: a `-pooler` host of Neon, or marked `pgbouncer=true`.

    A pooler runs each transaction in another session, so a LISTEN ends at once.
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
        raise ValueError("needs one port, or one per host")
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
