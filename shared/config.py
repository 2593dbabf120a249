"""Settings: the environment, read once, checked whole, and frozen.

A wrong or missing value raises SettingsError with one line that names the variable and what to do; it never
repeats the value, which may be a secret. docs/configuration.md lists every variable.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self, TypeVar
from urllib.parse import urlsplit

from shared.errors import SettingsError

TransportName = Literal["memory", "redis"]
TRANSPORTS: tuple[TransportName, ...] = ("memory", "redis")

MEMORY_MAX_EVENTS = 100_000  # a partition, where nothing is set: a forgotten local process must not fill the memory
LAMBDA_STREAM_SECONDS = 300.0  # Lambda does not see a client leave: the lifetime bounds what that costs
MAX_USER_SHARDS = 4_096
MAX_PARTITION_TYPES = 16  # a cursor names every partition, and must stay below 4,096 characters


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the environment decides; times in seconds."""

    transport: TransportName = "memory"
    prefix: str = "rt"
    redis_url: str | None = field(default=None, repr=False)
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
        env = {name: value.strip() for name, value in environ.items() if value.strip()}
        transport = _choice(env, "REALTIME_TRANSPORT", TRANSPORTS, "memory")
        keys = tuple(_list(env, "REALTIME_PUBLISH_KEYS"))
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
        return cls(
            transport=transport,
            prefix=_matching(env, "REALTIME_PREFIX", r"[A-Za-z0-9._-]{1,64}", "rt"),
            redis_url=_redis_url(env) if transport == "redis" else None,
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


_Text = TypeVar("_Text", bound=str)


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


def _duration(env: Mapping[str, str], name: str, default: float, least: float, most: float | None = None) -> float:
    if name not in env:
        return default
    match = _DURATION.fullmatch(env[name])
    if match is None:
        raise SettingsError(name, "must be a duration such as 500ms, 15s, 5m, 24h or 7d")
    seconds = float(match[1]) * _UNITS[match[2] or "s"]
    if seconds < least or (most is not None and seconds > most):
        upper = "" if most is None else f" and at most {most:g}s"
        raise SettingsError(name, f"must be at least {least:g}s{upper}")
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
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= (most or int(text)):
        upper = "" if most is None else f" and at most {most}"
        raise SettingsError(name, f"must be a whole number, at least {least}{upper}")
    return int(text)


def _redis_url(env: Mapping[str, str]) -> str:
    url = env.get("REDIS_URL")
    if url is None:
        raise SettingsError("REDIS_URL", "is not set: REALTIME_TRANSPORT=redis needs redis:// or rediss:// here")
    if urlsplit(url).scheme not in ("redis", "rediss", "unix"):
        raise SettingsError("REDIS_URL", "must begin with redis:// or rediss:// (Redis over TCP)")
    return url


def _jwks_url(env: Mapping[str, str]) -> str | None:
    url = env.get("REALTIME_JWKS_URL")
    if url is not None:
        parts = urlsplit(url)
        local = parts.hostname in ("127.0.0.1", "localhost", "::1")
        if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
            # Whoever can answer for the key set can sign tokens for every user.
            raise SettingsError("REALTIME_JWKS_URL", "must be an https:// URL (http:// only for this machine)")
    return url


def _origins(env: Mapping[str, str]) -> frozenset[str]:
    origins = frozenset(_list(env, "REALTIME_ALLOWED_ORIGINS"))
    for origin in origins:
        parts = urlsplit(origin)
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
    for name in types:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", name, re.ASCII) or name == "all" or name.startswith("realtime."):
            raise SettingsError(
                "REALTIME_PARTITIONS", "each must be an event type; 'all' and 'realtime.*' are reserved"
            )
    return types
