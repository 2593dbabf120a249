"""Settings: the environment, read once, checked completely, and frozen.

A wrong or missing value raises SettingsError with one line that names the variable and the remedy. It never contains
the value, which may be a secret. docs/configuration.md lists every variable.
"""

import re
from collections.abc import Mapping
from typing import Literal, Self

import msgspec

from tidewire.errors import SettingsError
from tidewire.model.event import RESERVED_TYPES
from tidewire.model.permissions import PERMISSIONS, TYPE_OR_PATTERN, AllowedTypes, PublishKey
from tidewire.settings.endpoints import (
    TraceExporter,
    aws_region,
    database_urls,
    dead_letter_queue,
    event_bus,
    event_source,
    jwks_url,
    key_prefix,
    redis_urls,
    schema_name,
    stream_url,
    trace_exporters,
)
from tidewire.settings.variables import (
    Rate,
    choice,
    defined,
    duration,
    integer,
    items,
    lifetime,
    matching,
    origins,
    rate,
)

TransportName = Literal["memory", "redis", "redis-pubsub", "postgres", "eventbridge"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "text"]
TRANSPORTS: tuple[TransportName, ...] = ("memory", "redis", "redis-pubsub", "postgres", "eventbridge")

MEMORY_MAX_EVENTS = 100_000  # per partition, by default: a forgotten local process must not fill the memory
MEMORY_MIB = 128  # for the memory log: half of the smallest cloud instances
LAMBDA_STREAM_SECONDS = 300.0  # Lambda does not notice a disconnect: the lifetime limits the cost
MAX_USER_SHARDS = 256  # each is a stream in the store, and a process with many users reads them all
MAX_PARTITION_TYPES = 16
MAX_PARTITION_NAMES = 800  # characters of all types together: a cursor lists every partition in 4,096 characters


_SECRET = {
    *("redis_url", "rest_url", "rest_token", "database_url", "database_pooled_url", "publish_keys", "jwt_secret"),
    *("netlify_secret", "variables"),
}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The validated environment; times in seconds."""

    transport: TransportName = "memory"
    prefix: str = "rt"
    redis_url: str | None = None
    rest_url: str | None = None
    rest_token: str | None = None
    database_url: str | None = None
    database_pooled_url: str | None = None
    event_bus: str | None = None
    event_source: str = "tidewire"
    aws_region: str | None = None
    dead_letter_queue: str | None = None
    poll_min: float = 0.25
    poll_max: float = 5.0
    sleep_after: float | None = None
    wake_every: float = 3_600.0
    auth_required: bool = False
    publish_keys: tuple[PublishKey, ...] = ()
    jwt_secret: str | None = None
    jwks_url: str | None = None
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    jwt_leeway: float = 5.0
    retention: float = 86_400.0
    max_events: int = MEMORY_MAX_EVENTS
    memory_mib: int = MEMORY_MIB
    idempotency_window: float = 86_400.0
    heartbeat: float = 15.0
    stream_seconds: float | None = None
    retry: float = 2.0
    stream_url: str = "/api/events"
    publish_rate: Rate | None = None
    head_seconds: float = 20.0
    body_seconds: float = 60.0
    keep_alive: float = 75.0
    stall_seconds: float = 60.0
    max_connections: int = 0
    max_user_connections: int = 0
    allowed_origins: frozenset[str] = frozenset()
    netlify_secret: str | None = None
    partitions: frozenset[str] = frozenset()
    user_shards: int = 0
    fallback: bool = False
    metrics_namespace: str | None = None
    trace_exporters: tuple[TraceExporter, ...] = ()
    log_level: LogLevel = "info"
    log_format: LogFormat = "auto"
    config_file: str | None = None
    variables: Mapping[str, str] = {}
    """The whole environment: `realtime.toml` names variables with the secrets of its sources."""
    host: str = "127.0.0.1"
    port: int = 8787

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name not in _SECRET)
        return f"Settings({fields})"

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the environment; raises SettingsError."""
        env = defined(environ)
        transport = choice(env, "REALTIME_TRANSPORT", TRANSPORTS, "memory")
        keys = _publish_keys(env)
        verifies = "REALTIME_JWT_SECRET" in env or "REALTIME_JWKS_URL" in env
        # Memory mode is open by default, but a configured key must not be ignored silently.
        default: Literal["required", "none"] = (
            "none" if transport == "memory" and not keys and not verifies else "required"
        )
        required = choice(env, "REALTIME_AUTH", ("required", "none"), default) == "required"
        if required and not keys and not verifies:
            raise SettingsError(
                "REALTIME_AUTH",
                "authentication is required but there is no key: set REALTIME_PUBLISH_KEYS for publishers and"
                " REALTIME_JWT_SECRET or REALTIME_JWKS_URL for subscribers, or set REALTIME_AUTH=none",
            )
        on_lambda = "AWS_LAMBDA_FUNCTION_NAME" in env
        redis_url, rest_url, rest_token = redis_urls(env, transport)
        database_url, database_pooled_url = database_urls(env) if transport == "postgres" else (None, None)
        poll_min = duration(env, "REALTIME_POLL_MIN", 0.25, 0.01, 60.0)
        retention = duration(env, "REALTIME_RETENTION", 86_400.0, 0.1)
        return cls(
            transport=transport,
            prefix=schema_name(env) if transport == "postgres" else key_prefix(env),
            redis_url=redis_url,
            rest_url=rest_url,
            rest_token=rest_token,
            database_url=database_url,
            database_pooled_url=database_pooled_url,
            event_bus=event_bus(env) if transport == "eventbridge" else None,
            event_source=event_source(env),
            aws_region=aws_region(env, needed=transport == "eventbridge"),
            dead_letter_queue=dead_letter_queue(env),
            poll_min=poll_min,
            poll_max=duration(env, "REALTIME_POLL_MAX", max(5.0, poll_min), poll_min, 300.0),
            sleep_after=_sleep_after(env, transport),
            wake_every=_wake_every(env, retention),
            auth_required=required,
            publish_keys=keys,
            jwt_secret=env.get("REALTIME_JWT_SECRET"),
            jwks_url=jwks_url(env),
            jwt_issuer=env.get("REALTIME_JWT_ISSUER"),
            jwt_audience=env.get("REALTIME_JWT_AUDIENCE"),
            jwt_leeway=duration(env, "REALTIME_JWT_LEEWAY", 5.0, 0.0, 300.0),
            retention=retention,
            max_events=integer(env, "REALTIME_MAX_EVENTS", MEMORY_MAX_EVENTS if transport == "memory" else 0, 1),
            memory_mib=integer(env, "REALTIME_MEMORY_MIB", MEMORY_MIB, 1),
            idempotency_window=duration(env, "REALTIME_IDEMPOTENCY_WINDOW", 86_400.0, 0.1),
            heartbeat=duration(env, "REALTIME_HEARTBEAT", 15.0, 0.1, 60.0),
            stream_seconds=lifetime(env, LAMBDA_STREAM_SECONDS if on_lambda else None),
            stream_url=stream_url(env),
            publish_rate=rate(env, "REALTIME_PUBLISH_RATE"),
            head_seconds=duration(env, "REALTIME_HEAD_SECONDS", 20.0, 0.1, 300.0),
            body_seconds=duration(env, "REALTIME_BODY_SECONDS", 60.0, 0.1, 3_600.0),
            keep_alive=duration(env, "REALTIME_KEEP_ALIVE", 75.0, 0.1, 3_600.0),
            stall_seconds=duration(env, "REALTIME_STALL_SECONDS", 60.0, 1.0, 60.0),
            max_connections=integer(env, "REALTIME_MAX_CONNECTIONS", 0, 1),
            max_user_connections=integer(env, "REALTIME_MAX_USER_CONNECTIONS", 0, 1),
            retry=duration(env, "REALTIME_RETRY", 2.0, 0.0, 300.0),
            allowed_origins=origins(env, "REALTIME_ALLOWED_ORIGINS"),
            netlify_secret=env.get("REALTIME_NETLIFY_SECRET"),
            partitions=_partitions(env),
            user_shards=integer(env, "REALTIME_USER_SHARDS", 0, 0, MAX_USER_SHARDS),
            fallback=_fallback(env, transport, on_lambda),
            metrics_namespace=_namespace(env),
            trace_exporters=trace_exporters(env),
            log_level=choice(env, "REALTIME_LOG_LEVEL", ("debug", "info", "warning", "error"), "info"),
            log_format=choice(env, "REALTIME_LOG_FORMAT", ("auto", "json", "text"), "auto"),
            config_file=env.get("REALTIME_CONFIG"),
            variables=env,
            host=env.get("HOST", "127.0.0.1"),
            port=integer(env, "PORT", 8787, 0, 65_535),
        )


def _publish_keys(env: Mapping[str, str]) -> tuple[PublishKey, ...]:
    """Return the keys. `key:pattern` limits a key; a key may be listed several times, once per pattern."""
    limits: dict[str, set[str]] = {}
    for item in items(env, "REALTIME_PUBLISH_KEYS"):
        if not re.fullmatch(r"[\x21-\x7e]+", item):
            raise SettingsError("REALTIME_PUBLISH_KEYS", "must be visible ASCII: a header cannot carry other keys")
        key, colon, pattern = item.rpartition(":") if ":" in item else (item, "", "")
        is_type = TYPE_OR_PATTERN.fullmatch(pattern) and not pattern.startswith(RESERVED_TYPES)
        if not key or (colon and pattern not in PERMISSIONS and not is_type):
            raise SettingsError(
                "REALTIME_PUBLISH_KEYS",
                "each item must be key or key:pattern; the pattern, after the last colon, must be an event type, a"
                f" prefix that ends in *, or one of {', '.join(sorted(PERMISSIONS))}",
            )
        patterns = limits.setdefault(key, set())
        patterns.add(pattern)
        if "" in patterns and len(patterns) > 1:
            raise SettingsError(
                "REALTIME_PUBLISH_KEYS", "lists a key both with and without a pattern: remove one of the two"
            )
    return tuple(
        PublishKey(key)
        if "" in patterns
        else PublishKey(key, AllowedTypes.parse(patterns - PERMISSIONS), PERMISSIONS & patterns)
        for key, patterns in limits.items()
    )


def _namespace(env: Mapping[str, str]) -> str | None:
    """Return the CloudWatch namespace; AWS reserves those that begin with AWS/."""
    name = "REALTIME_METRICS_NAMESPACE"
    return matching(env, name, r"(?!AWS/)[A-Za-z0-9._/#:-]{1,255}", "") if name in env else None


def _sleep_after(env: Mapping[str, str], transport: TransportName) -> float | None:
    name = "REALTIME_SLEEP_AFTER"
    if name in env and transport != "postgres":
        raise SettingsError(name, f"is for the transport postgres, whose compute may sleep: with {transport}, unset it")
    return duration(env, name, 0.0, 1.0) if name in env else None


def _wake_every(env: Mapping[str, str], retention: float) -> float:
    """Return the seconds between two wake-ups: at most half the retention, or what was missed might be deleted."""
    name = "REALTIME_WAKE_EVERY"
    every = duration(env, name, min(3_600.0, retention / 2), 1.0) if retention >= 2.0 else retention / 2
    if every > retention / 2:
        raise SettingsError(name, "must be at most half of REALTIME_RETENTION: missed events must be kept until then")
    return every


def _fallback(env: Mapping[str, str], transport: TransportName, on_lambda: bool) -> bool:
    if choice(env, "REALTIME_FALLBACK", ("none", "memory"), "none") == "none":
        return False
    if transport not in ("redis", "postgres"):
        raise SettingsError(
            "REALTIME_FALLBACK",
            f"memory needs the transport redis or postgres, whose log can be unavailable: with {transport}, unset it",
        )
    if on_lambda:  # Lambda freezes a process after a response and ends it without notice: accepted events would be lost
        raise SettingsError("REALTIME_FALLBACK", "memory is for long-lived instances, not for Lambda: unset it")
    return True


def _partitions(env: Mapping[str, str]) -> frozenset[str]:
    types = frozenset(items(env, "REALTIME_PARTITIONS"))
    if len(types) > MAX_PARTITION_TYPES:
        raise SettingsError("REALTIME_PARTITIONS", f"must name at most {MAX_PARTITION_TYPES} types")
    if sum(map(len, types)) > MAX_PARTITION_NAMES:
        raise SettingsError(
            "REALTIME_PARTITIONS", f"must have at most {MAX_PARTITION_NAMES} characters: every cursor lists each type"
        )
    for name in types:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", name, re.ASCII) or name == "all" or name.startswith("realtime."):
            raise SettingsError(
                "REALTIME_PARTITIONS", "each item must be an event type; 'all' and 'realtime.*' are reserved"
            )
    return types
