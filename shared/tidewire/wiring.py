"""Settings → transport → hub: the only module that imports adapters, each at its first use."""

import asyncio
import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tidewire.delivery.hub import Hub
from tidewire.delivery.revocations import Revocations
from tidewire.errors import SettingsError
from tidewire.model.partitions import Partitions
from tidewire.monitoring.logs import configure
from tidewire.settings.config import Settings
from tidewire.settings.endpoints import TRACE_VARIABLES
from tidewire.settings.variables import unknown_variables
from tidewire.transports.base import Inspection, Log, Retention, Transport

if TYPE_CHECKING:
    from tidewire.delivery.tracer import Tracer

logger = logging.getLogger(__name__)


def make_transport(settings: Settings, *, stateless: bool = False) -> Transport:
    """Return the transport that the settings name, not connected yet.

    `stateless` is for a function that answers one request and may then be frozen: it reaches Redis over REST and
    Postgres through a pooler, if the settings name them, while a long-lived process connects directly to the same log.
    It has no fallback either, because a frozen process cannot empty an outbox. Raises SettingsError if the transport
    does not fit such a process.
    """
    transport = _make_log(settings, stateless=stateless)
    if not settings.fallback or stateless:
        return transport
    from tidewire.transports.fallback.fallback import Fallback

    assert isinstance(transport, Log)  # Settings has checked it
    return Fallback(transport, make_partitions(settings))


def _make_log(settings: Settings, *, stateless: bool) -> Transport:
    partitions = make_partitions(settings)
    retention = Retention(settings.retention, settings.max_events, settings.idempotency_window)
    if settings.transport == "memory":
        from tidewire.transports.memory import MemoryLog

        return MemoryLog(partitions, retention, max_bytes=settings.memory_mib * 2**20)
    if settings.transport == "redis-pubsub":
        from tidewire.transports.redis.pubsub import RedisPubSub

        assert settings.redis_url is not None  # Settings has checked it
        return RedisPubSub(settings.redis_url, settings.prefix, partitions, retention)
    if settings.transport == "postgres":
        from tidewire.transports.postgres.log import PostgresLog
        from tidewire.transports.postgres.sleeping import Sleep

        assert settings.database_url is not None
        url = settings.database_pooled_url if stateless else None
        return PostgresLog(
            url or settings.database_url,
            settings.prefix,
            partitions,
            retention,
            listen_url=settings.database_url,
            sleep=Sleep(settings.sleep_after, settings.wake_every),
        )
    if settings.transport == "eventbridge":
        from tidewire.transports.eventbridge import EventBridge

        if not stateless:  # its streams would stay open and receive nothing
            raise SettingsError(
                "REALTIME_TRANSPORT",
                "eventbridge is for functions that publish: a process with streams needs the log that"
                " functions/receive.py writes to, such as redis or postgres",
            )
        assert settings.event_bus is not None
        return EventBridge(settings.event_bus, settings.event_source, settings.aws_region)
    if settings.rest_url is not None and (stateless or settings.redis_url is None):
        from tidewire.transports.upstash.rest_log import UpstashRest

        assert settings.rest_token is not None
        poll = {"poll_min": settings.poll_min, "poll_max": settings.poll_max}
        return UpstashRest(settings.rest_url, settings.rest_token, settings.prefix, partitions, retention, **poll)
    assert settings.redis_url is not None
    if "+cluster://" in settings.redis_url[:18]:
        from tidewire.transports.redis.cluster import ClusterStreams

        return ClusterStreams(settings.redis_url, settings.prefix, partitions, retention)
    from tidewire.transports.redis.streams import RedisStreams

    return RedisStreams(settings.redis_url, settings.prefix, partitions, retention)


def prepare(settings: Settings) -> None:
    """Configure logging and check the store, before a process with streams makes its hub. Raises SettingsError."""
    configure(settings.log_level, settings.log_format)
    asyncio.run(check_store(settings))


async def check_store(settings: Settings) -> None:
    """Log what the operator should change in the store's own settings.

    Raises SettingsError if every stream would fail with this store. A store that cannot be reached now raises nothing:
    it may be back a moment later.
    """
    if settings.transport == "postgres":
        from tidewire.transports.postgres.migrations import check_database

        assert settings.database_url is not None
        await check_database(settings.database_url, settings.prefix)
    for warning in await survey(settings):
        logger.warning(warning)


async def survey(settings: Settings) -> Sequence[str]:
    """Return warnings about the store's own settings, such as eviction. Raises SettingsError as `check_store` does."""
    if settings.transport not in ("redis", "redis-pubsub"):
        return ()
    from tidewire.transports.redis.server_info import check_server

    found = await check_server(settings.redis_url, settings.rest_url, settings.rest_token)
    return () if settings.transport == "redis-pubsub" else found  # Pub/Sub keeps nothing that could be evicted


async def inspect_store(settings: Settings) -> Inspection | None:
    """Return what each server of the store answers to the doctor; None if the store has none that can be asked.

    Raises SettingsError if the servers are not of the kind that the settings name.
    """
    if settings.transport not in ("redis", "redis-pubsub") or settings.redis_url is None:
        return None
    from tidewire.transports.redis.inspection import inspect_redis

    return await inspect_redis(settings.redis_url)


def make_hub(settings: Settings, *, stateless: bool = False) -> Hub:
    """Return a hub over that transport; with authentication it applies revocations. Raises SettingsError.

    Warns, once per process, of unknown variables and of publish keys that protect nothing.
    """
    for sentence in unknown_variables(settings.variables):
        _warn_once(sentence)
    if settings.publish_keys and not settings.auth_required:
        _warn_once("REALTIME_AUTH=none: everyone can publish, also without a key of REALTIME_PUBLISH_KEYS")
    transport = make_transport(settings, stateless=stateless)
    return Hub(
        transport,
        make_partitions(settings),
        heartbeat=settings.heartbeat,
        window=settings.idempotency_window,
        tracer=_make_tracer(settings) if settings.trace_exporters else None,
        revocations=Revocations(transport, settings.retention) if settings.auth_required else None,
    )


@functools.cache
def _warn_once(sentence: str) -> None:
    """Log a warning once: after a rotation of secrets, another hub is made with the same settings."""
    logger.warning(sentence)


def _make_tracer(settings: Settings) -> "Tracer":
    try:
        from tidewire.monitoring.opentelemetry import Tracing
    except ModuleNotFoundError as error:
        variable = next(name for name in TRACE_VARIABLES if name in settings.variables)
        raise SettingsError(
            variable,
            f"enables traces, but {error.name} is not installed: install requirements-tracing.txt, or set"
            " OTEL_TRACES_EXPORTER=none",
        ) from None
    return Tracing.from_settings(settings, make_partitions(settings))


def make_partitions(settings: Settings) -> Partitions:
    """Return the partition scheme that publishers and subscribers share."""
    return Partitions(settings.partitions, settings.user_shards)
