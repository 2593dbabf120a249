"""The URL of Redis: one server, sentinels that know where it is, or seed nodes of a cluster."""

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from tidewire.errors import SettingsError

Kind = Literal["single", "sentinel", "cluster"]

REDIS_PORT, SENTINEL_PORT = 6379, 26379

TLS_OPTIONS = ("ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile", "ssl_password")
SENTINEL_OPTIONS = ("sentinel_password", "sentinel_ssl", "sentinel_username")
OPTIONS: dict[Kind, tuple[str, ...]] = {
    "single": ("db", *TLS_OPTIONS),
    "sentinel": ("db", *SENTINEL_OPTIONS, *TLS_OPTIONS),
    "cluster": ("db", *TLS_OPTIONS),
}
"""The options of a URL, named as redis-py names them."""

_URL = re.compile(r"([a-z+]+)://([^/?#]*@)?([^/?#]*)(.*)", re.DOTALL)
_SCHEME = re.compile(r"unix|(?:rediss?)(?:\+(sentinel|cluster))?")
_SERVICE = re.compile(r"[A-Za-z0-9._-]{1,255}", re.ASCII)  # what Sentinel accepts as the name of a primary
_SEVERAL = "names several servers: write redis+sentinel:// or redis+cluster:// before them"


class RedisUrl(NamedTuple):
    """The parts of a `REDIS_URL`, decoded. Files that it names were not opened."""

    kind: Kind
    places: tuple[tuple[str, int], ...]  # host and port of the server, of each sentinel, or of each seed node
    socket: str | None  # the path of a Unix socket, instead of the one place
    service: str  # the name of the primary at the sentinels, else ''
    user: str
    password: str
    db: int
    tls: bool  # to the server, or to data nodes
    options: Mapping[str, str]

    def is_on(self, option: str, *, default: bool) -> bool:
        """Return an option that is true or false."""
        return _flag(self.options, option, default=default)


def parse_redis_url(url: str) -> RedisUrl:
    """Read a URL of one server, or of several, separated by commas. Raises SettingsError.

    - `redis://[[user]:password@]host[:port][/db]`, `rediss://…` with TLS, `unix://…/path?db=…`;
    - `redis+sentinel://[[user]:password@]host[:port][,host[:port]…]/service`, or `rediss+sentinel://…`: the user and
      the password are those of the data nodes;
    - `redis+cluster://[[user]:password@]host[:port][,host[:port]…]`, or `rediss+cluster://…`.
    """
    kind, servers = _split(url)
    parts = servers[0]
    given = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(given)
    for server in servers:
        problem = _wrong_options(kind, server, options, len(given)) or _wrong_place(kind, server)
        if problem is not None:
            raise wrong(problem)
    path = parts.path.strip("/")
    local = parts.scheme == "unix"
    db = options.get("db") or (path if kind == "single" and not local else "") or "0"
    if not (db.isascii() and db.isdigit() and len(db) < 6):
        where = "the database after the last /" if kind == "single" else "db"
        raise wrong(f"{where} must be a number")
    default = SENTINEL_PORT if kind == "sentinel" else REDIS_PORT
    for flag in ("sentinel_ssl", "ssl_check_hostname"):
        _flag(options, flag, default=False)
    if options.get("ssl_cert_reqs", "none") not in ("required", "none"):
        raise wrong("ssl_cert_reqs must be required or none")
    if "ssl_certfile" not in options and (needing := sorted(options.keys() & {"ssl_keyfile", "ssl_password"})):
        raise wrong(f"has the option {needing[0]} without ssl_certfile")
    return RedisUrl(
        kind=kind,
        places=tuple((at.hostname or "localhost", at.port or default) for at in servers),
        socket=unquote(parts.path) if local else None,
        service=path if kind == "sentinel" else "",
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        db=int(db),
        tls=parts.scheme == "rediss",
        options=options,
    )


def wrong(problem: str) -> SettingsError:
    """Return the error for a URL; `problem` holds no part of it but names of options."""
    return SettingsError("REDIS_URL", problem)


def _split(url: str) -> tuple[Kind, list[SplitResult]]:
    """Return the parts of the URL for each server, as if it stood alone in it. Raises SettingsError."""
    found = _URL.fullmatch(url)
    scheme = None if found is None else _SCHEME.fullmatch(found[1])
    if found is None or scheme is None:
        raise wrong("is not the URL of a Redis server")
    _, user, hosts, rest = found.groups(default="")
    kind: Kind = scheme[1] or "single"  # type: ignore[assignment]  # one of them
    try:
        servers = [
            urlsplit(f"{found[1].partition('+')[0]}://{user}{host}{rest}")
            for host in ([hosts] if kind == "single" else hosts.split(","))
        ]
        for parts in servers:
            parts.port  # noqa: B018 - raises if it is malformed
    except ValueError:
        raise wrong(_SEVERAL if kind == "single" and "," in hosts else "is not a URL") from None
    return kind, servers


def _wrong_options(kind: Kind, parts: SplitResult, options: Mapping[str, str], given: int) -> str | None:
    """Return what is wrong with the options of a URL, if anything is."""
    single = kind == "single"
    path = parts.path.strip("/")
    secure = parts.scheme == "rediss" or options.get("sentinel_ssl") == "true"
    if unknown := sorted(options.keys() - set(OPTIONS[kind])):
        return f"has an unknown option ({unknown[0]}): the options are {', '.join(OPTIONS[kind])}"
    if given > len(options):
        return "has an option twice"
    if not secure and (needing := sorted(name for name in options if name in TLS_OPTIONS)):
        return f"has the option {needing[0]}, which needs rediss{'' if single else f'+{kind}'}://"
    if single and parts.scheme != "unix" and path and options.get("db", path) != path:
        return "names two databases, after the last / and as db"
    if kind == "cluster" and (path or "0", options.get("db") or "0") != ("0", "0"):
        return "names a database, but a cluster has only the database 0"
    if options.get("sentinel_username") and not options.get("sentinel_password"):
        return "has the option sentinel_username without sentinel_password"
    return None


def _wrong_place(kind: Kind, parts: SplitResult) -> str | None:
    """Return what is wrong with a server in a URL, if anything is."""
    local = parts.scheme == "unix"
    path = parts.path.strip("/")
    problems = {
        "has a #: in a password write it %23, and / as %2F, ? as %3F, @ as %40": parts.fragment,
        "names a user without a password: write redis://user:password@host": parts.username and not parts.password,
        "must name the socket with its whole path: unix:///run/redis.sock": local and (parts.hostname or not path),
        "has an empty host in its list: write host:port,host:port": kind != "single" and not parts.hostname,
        "names no host, so that no certificate can be checked": parts.scheme == "rediss" and not parts.hostname,
        _SEVERAL: not local and "," in (parts.hostname or ""),
        "has the port 0": parts.port == 0,
        "must name the primary after the last host, as the sentinels know it: …host:26379/mymaster": (
            kind == "sentinel" and not _SERVICE.fullmatch(path)
        ),
    }
    return next((problem for problem, is_wrong in problems.items() if is_wrong), None)


def _flag(options: Mapping[str, str], name: str, *, default: bool) -> bool:
    value = options.get(name, "true" if default else "false")
    if value not in ("true", "false"):
        raise wrong(f"{name} must be true or false")
    return value == "true"
