"""Settings: the environment, read once, checked whole, and frozen.

A wrong or missing value raises SettingsError with one line that names the variable and what to do; it never
repeats the value, which may be a secret. docs/configuration.md lists every variable.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self, TypeVar
from urllib.parse import SplitResult, urlsplit

from shared.errors import SettingsError

TransportName = Literal["memory", "redis", "redis-pubsub", "postgres"]
TRANSPORTS: tuple[TransportName, ...] = ("memory", "redis", "redis-pubsub", "postgres")

MEMORY_MAX_EVENTS = 100_000  # a partition, where nothing is set: a forgotten local process must not fill the memory
LAMBDA_STREAM_SECONDS = 300.0  # Lambda does not see a client leave: the lifetime bounds what that costs
MAX_USER_SHARDS = 4_096
MAX_SCHEMA_NAME = 50  # the doorbell's channel is named after it too, and Postgres cuts names off at 63
MAX_PARTITION_TYPES = 16
MAX_PARTITION_NAMES = 800  # characters of all types together: a cursor names each partition, and has 4,096 in all


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the environment decides; times in seconds."""

    transport: TransportName = "memory"
    prefix: str = "rt"
    redis_url: str | None = field(default=None, repr=False)
    rest_url: str | None = field(default=None, repr=False)
    rest_token: str | None = field(default=None, repr=False)
    database_url: str | None = field(default=None, repr=False)
    database_pooled_url: str | None = field(default=None, repr=False)
    poll_min: float = 0.25
    poll_max: float = 5.0
    auth_required: bool = False
    publish_keys: tuple[str, ...] = field(default=(), repr=False)
    jwt_secret: str | None = field(default=None, repr=False)
    jwks_url: str | None = None
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    jwt_leeway: float = 0.0
    retention: float = 86_400.0
    max_events: int = MEMORY_MAX_EVENTS
    idempotency_window: float = 86_400.0
    heartbeat: float = 15.0
    stream_seconds: float | None = None
    retry: float = 2.0
    allowed_origins: frozenset[str] = frozenset()
    partitions: frozenset[str] = frozenset()
    user_shards: int = 0
    host: str = "127.0.0.1"
    port: int = 8787

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the environment; raises SettingsError."""
        env = _set(environ)
        transport = _choice(env, "REALTIME_TRANSPORT", TRANSPORTS, "memory")
        keys = tuple(_list(env, "REALTIME_PUBLISH_KEYS"))
        if not all(re.fullmatch(r"[\x21-\x7e]+", key) for key in keys):
            raise SettingsError("REALTIME_PUBLISH_KEYS", "must be visible ASCII: no header could carry another key")
        verifies = "REALTIME_JWT_SECRET" in env or "REALTIME_JWKS_URL" in env
        # Memory mode is open by default, but a key that is set and not asked for would be a trap.
        default: Literal["required", "none"] = (
            "none" if transport == "memory" and not keys and not verifies else "required"
        )
        required = _choice(env, "REALTIME_AUTH", ("required", "none"), default) == "required"
        if required and not keys and not verifies:
            raise SettingsError(
                "REALTIME_AUTH",
                "authentication is required but there is no key: set REALTIME_PUBLISH_KEYS for publishers and"
                " REALTIME_JWT_SECRET or REALTIME_JWKS_URL for subscribers, or say REALTIME_AUTH=none",
            )
        on_lambda = "AWS_LAMBDA_FUNCTION_NAME" in env
        redis_url, rest_url, rest_token = _redis(env, transport)
        database_url, database_pooled_url = database_urls(env) if transport == "postgres" else (None, None)
        poll_min = _duration(env, "REALTIME_POLL_MIN", 0.25, 0.01, 60.0)
        return cls(
            transport=transport,
            prefix=schema_name(env) if transport == "postgres" else _prefix(env),
            redis_url=redis_url,
            rest_url=rest_url,
            rest_token=rest_token,
            database_url=database_url,
            database_pooled_url=database_pooled_url,
            poll_min=poll_min,
            poll_max=_duration(env, "REALTIME_POLL_MAX", max(5.0, poll_min), poll_min, 300.0),
            auth_required=required,
            publish_keys=keys,
            jwt_secret=env.get("REALTIME_JWT_SECRET"),
            jwks_url=_jwks_url(env),
            jwt_issuer=env.get("REALTIME_JWT_ISSUER"),
            jwt_audience=env.get("REALTIME_JWT_AUDIENCE"),
            jwt_leeway=_duration(env, "REALTIME_JWT_LEEWAY", 0.0, 0.0, 300.0),
            retention=_duration(env, "REALTIME_RETENTION", 86_400.0, 0.1),
            max_events=_integer(env, "REALTIME_MAX_EVENTS", MEMORY_MAX_EVENTS if transport == "memory" else 0, 1),
            idempotency_window=_duration(env, "REALTIME_IDEMPOTENCY_WINDOW", 86_400.0, 0.1),
            heartbeat=_duration(env, "REALTIME_HEARTBEAT", 15.0, 0.1, 60.0),
            stream_seconds=_lifetime(env, LAMBDA_STREAM_SECONDS if on_lambda else None),
            retry=_duration(env, "REALTIME_RETRY", 2.0, 0.0, 300.0),
            allowed_origins=_origins(env),
            partitions=_partitions(env),
            user_shards=_integer(env, "REALTIME_USER_SHARDS", 0, 0, MAX_USER_SHARDS),
            host=env.get("HOST", "127.0.0.1"),
            port=_integer(env, "PORT", 8787, 0, 65_535),
        )


def database_urls(environ: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the database's URL, and the one of its pooler where there is another for that; raises SettingsError.

    Netlify sets both: LISTEN needs the direct one, functions that come and go in crowds the pooler's.
    """
    env = _set(environ)
    direct, pooled = "NETLIFY_DATABASE_URL_UNPOOLED", "NETLIFY_DATABASE_URL"
    names = ["DATABASE_URL"] if "DATABASE_URL" in env else [name for name in (direct, pooled) if name in env]
    for name in names:
        if _split(env, name).scheme not in ("postgres", "postgresql"):
            raise SettingsError(name, "must begin with postgres:// or postgresql://")
    if not names:
        raise SettingsError(
            "DATABASE_URL",
            f"is not set: Postgres needs postgres:// or postgresql:// here, or in {direct} and {pooled} on Netlify",
        )
    return env[names[0]], env[pooled] if names == [direct, pooled] else None


def schema_name(environ: Mapping[str, str]) -> str:
    """Return the prefix as what it is in Postgres; raises SettingsError."""
    prefix = _prefix(_set(environ))
    if len(prefix) > MAX_SCHEMA_NAME or prefix in ("public", "information_schema") or prefix.startswith("pg_"):
        raise SettingsError(
            "REALTIME_PREFIX",
            f"is a schema's name in Postgres: at most {MAX_SCHEMA_NAME} characters, and none of the server's own",
        )
    return prefix


_Text = TypeVar("_Text", bound=str)


def _set(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value.strip() for name, value in environ.items() if value.strip()}


def _prefix(env: Mapping[str, str]) -> str:
    return _matching(env, "REALTIME_PREFIX", r"[A-Za-z0-9._-]{1,64}", "rt")


def _choice(env: Mapping[str, str], name: str, choices: tuple[_Text, ...], default: _Text) -> _Text:
    value = env.get(name, default)
    for choice in choices:
        if value == choice:
            return choice
    raise SettingsError(name, f"must be one of {', '.join(choices)}")


def _list(env: Mapping[str, str], name: str) -> list[str]:
    return [item.strip() for item in env.get(name, "").split(",") if item.strip()]


def _matching(env: Mapping[str, str], name: str, pattern: str, default: str) -> str:
    value = env.get(name, default)
    if not re.fullmatch(pattern, value, re.ASCII):
        raise SettingsError(name, f"must match {pattern}")
    return value


_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


_LONGEST = 3_650 * 86_400.0  # seconds: ten years; more is a mistake, and would be too much for Redis


def _duration(env: Mapping[str, str], name: str, default: float, least: float, most: float = _LONGEST) -> float:
    if name not in env:
        return default
    match = _DURATION.fullmatch(env[name])
    if match is None:
        raise SettingsError(name, "must be a duration such as 500ms, 15s, 5m, 24h or 7d")
    seconds = float(match[1]) * _UNITS[match[2] or "s"]
    if not least <= seconds <= most:
        raise SettingsError(name, f"must be at least {least:g}s and at most {most:g}s")
    return seconds


def _lifetime(env: Mapping[str, str], default: float | None) -> float | None:
    if env.get("REALTIME_STREAM_SECONDS") == "unlimited":
        return None
    if "REALTIME_STREAM_SECONDS" not in env:
        return default
    return _duration(env, "REALTIME_STREAM_SECONDS", 0.0, 0.1)


def _integer(env: Mapping[str, str], name: str, default: int, least: int, most: int | None = None) -> int:
    if name not in env:
        return default
    text = env[name].replace("_", "")
    if not re.fullmatch(r"[0-9]{1,15}", text) or not least <= int(text) <= (most or int(text)):
        upper = "" if most is None else f" and at most {most}"
        raise SettingsError(name, f"must be a whole number, at least {least}{upper}")
    return int(text)


_LOCAL = ("127.0.0.1", "localhost", "::1")


def _redis(env: Mapping[str, str], transport: str) -> tuple[str | None, str | None, str | None]:
    """Return the URL over TCP, and the URL and token over REST; what the transport needs is there."""
    if transport not in ("redis", "redis-pubsub"):
        return None, None, None
    url = env.get("REDIS_URL")
    tcp = url if url is not None and url.startswith(("redis://", "rediss://", "unix://")) else None
    if tcp is not None:
        _split(env, "REDIS_URL")
    if transport == "redis-pubsub":
        if tcp is None:
            raise SettingsError("REDIS_URL", "must be set to redis:// or rediss://: Pub/Sub needs a connection")
        return tcp, None, None
    if url is not None and tcp is None:
        if not url.startswith(("https://", "http://")):
            raise SettingsError("REDIS_URL", "must begin with redis:// or rediss:// (TCP) or https:// (Upstash's REST)")
        if env.get("UPSTASH_REDIS_REST_URL", url) != url:
            raise SettingsError("UPSTASH_REDIS_REST_URL", "names another REST endpoint than REDIS_URL: set only one")
        return None, *_rest(env, "REDIS_URL", "REDIS_TOKEN")
    if "UPSTASH_REDIS_REST_URL" in env:
        return tcp, *_rest(env, "UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN")
    if tcp is None:
        raise SettingsError(
            "REDIS_URL",
            "is not set: REALTIME_TRANSPORT=redis needs redis:// or rediss:// here (TCP), or https:// with REDIS_TOKEN"
            " (REST), or UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN",
        )
    return tcp, None, None


def _rest(env: Mapping[str, str], url_name: str, token_name: str) -> tuple[str, str]:
    parts = _split(env, url_name)
    nearby = parts.hostname in _LOCAL or "." not in (parts.hostname or ".")  # a container's name
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and nearby)):
        # Everyone on the way could read the token, and with it every event.
        raise SettingsError(url_name, "must be an https:// URL (http:// only for a stand-in on this machine)")
    if parts.username is not None or parts.query or parts.fragment:
        raise SettingsError(url_name, f"must be the address alone; the token goes into {token_name}")
    token = env.get(token_name)
    if token is None:
        raise SettingsError(token_name, f"is not set: the REST endpoint of {url_name} needs it")
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise SettingsError(token_name, "must be visible ASCII characters")
    return env[url_name].rstrip("/"), token


def _split(env: Mapping[str, str], name: str, url: str | None = None) -> SplitResult:
    try:
        parts = urlsplit(env[name] if url is None else url)
        parts.port  # noqa: B018 — raises where it is none
    except ValueError:
        raise SettingsError(name, "is not a URL") from None
    return parts


def _jwks_url(env: Mapping[str, str]) -> str | None:
    url = env.get("REALTIME_JWKS_URL")
    if url is not None:
        parts = _split(env, "REALTIME_JWKS_URL")
        local = parts.hostname in _LOCAL
        if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
            # Whoever can answer for the key set can sign tokens for every user.
            raise SettingsError("REALTIME_JWKS_URL", "must be an https:// URL (http:// only for this machine)")
    return url


def _origins(env: Mapping[str, str]) -> frozenset[str]:
    origins = frozenset(_list(env, "REALTIME_ALLOWED_ORIGINS"))
    for origin in origins:
        parts = _split(env, "REALTIME_ALLOWED_ORIGINS", origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}":
            raise SettingsError(
                "REALTIME_ALLOWED_ORIGINS",
                "each must be an exact origin such as https://app.example.com, without a path and without *",
            )
    return origins


def _partitions(env: Mapping[str, str]) -> frozenset[str]:
    types = frozenset(_list(env, "REALTIME_PARTITIONS"))
    if len(types) > MAX_PARTITION_TYPES:
        raise SettingsError("REALTIME_PARTITIONS", f"must name at most {MAX_PARTITION_TYPES} types")
    if sum(map(len, types)) > MAX_PARTITION_NAMES:
        raise SettingsError(
            "REALTIME_PARTITIONS", f"must have at most {MAX_PARTITION_NAMES} characters: every cursor names each type"
        )
    for name in types:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", name, re.ASCII) or name == "all" or name.startswith("realtime."):
            raise SettingsError(
                "REALTIME_PARTITIONS", "each must be an event type; 'all' and 'realtime.*' are reserved"
            )
    return types
