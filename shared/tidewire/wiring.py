"""Settings → transport → hub: the only module that imports adapters, each only where it is used."""

import asyncio
import functools
import logging
from collections.abc import Sequence

from tidewire.delivery.hub import Hub
from tidewire.delivery.revocations import Revocations
from tidewire.delivery.tracer import Tracer
from tidewire.errors import SettingsError
from tidewire.model.partitions import Partitions
from tidewire.monitoring.logs import configure
from tidewire.settings.config import Settings
from tidewire.settings.endpoints import TRACE_VARIABLES
from tidewire.settings.variables import unknown_variables
from tidewire.transports.base import Log, Retention, Transport

logger = logging.getLogger(__name__)


def make_transport(settings: Settings, *, stateless: bool = False) -> Transport:
    """Return the transport that the settings name, not connected yet.

    `stateless` is a function that answers one request and may be frozen after it: where Redis can be reached over
    REST too, or Postgres through a pooler, it takes that. Whoever lives longer connects directly. Both ways lead to
    the same log. It accepts nothing that the log does not hold: the fallback is for whoever lives longer. Raises
    SettingsError where the transport is not for such a process.
    """
    transport = _make_own(settings, stateless=stateless)
    if not settings.fallback or stateless:
        return transport
    from tidewire.transports.fallback.fallback import Fallback

    assert isinstance(transport, Log)  # Settings has seen to it
    return Fallback(transport, make_partitions(settings))


def _make_own(settings: Settings, *, stateless: bool) -> Transport:
    partitions = make_partitions(settings)
    retention = Retention(settings.retention, settings.max_events, settings.idempotency_window)
    if settings.transport == "memory":
        from tidewire.transports.memory import MemoryLog

        return MemoryLog(partitions, retention, max_bytes=settings.memory_mib * 2**20)
    if settings.transport == "redis-pubsub":
        from tidewire.transports.redis.pubsub import RedisPubSub

        assert settings.redis_url is not None  # Settings has seen to it
        return RedisPubSub(settings.redis_url, settings.prefix, partitions, retention)
    if settings.transport == "postgres":
        from tidewire.transports.postgres.log import PostgresLog

        assert settings.database_url is not None
        url = settings.database_pooled_url if stateless else None
        return PostgresLog(
            url or settings.database_url, settings.prefix, partitions, retention, listen_url=settings.database_url
        )
    if settings.transport == "eventbridge":
        from tidewire.transports.eventbridge import EventBridge

        if not stateless:  # a stream would be open, and never hear of anything
            raise SettingsError(
                "REALTIME_TRANSPORT",
                "eventbridge is for functions that publish: a process with streams names the log that"
                " functions/receive.py writes, such as redis or postgres",
            )
        assert settings.event_bus is not None
        return EventBridge(settings.event_bus, settings.event_source, settings.aws_region)
    if settings.rest_url is not None and (stateless or settings.redis_url is None):
        from tidewire.transports.upstash.rest_log import UpstashRest

        assert settings.rest_token is not None
        poll = {"poll_min": settings.poll_min, "poll_max": settings.poll_max}
        return UpstashRest(settings.rest_url, settings.rest_token, settings.prefix, partitions, retention, **poll)
    from tidewire.transports.redis.streams import RedisStreams

    assert settings.redis_url is not None  # Settings has seen to it
    return RedisStreams(settings.redis_url, settings.prefix, partitions, retention)


def prepare(settings: Settings) -> None:
    """Do what each process with streams does before it makes its hub: give its log a form, and look at its store.

    What would fail each of its streams raises SettingsError, and what the operator should know is logged. A store that
    cannot be reached now is no such thing: it may be there a moment later.
    """
    configure(settings.log_level, settings.log_format)
    for warning in asyncio.run(_check(settings)):
        logger.warning(warning)


async def _check(settings: Settings) -> Sequence[str]:
    if settings.transport == "postgres":
        from tidewire.transports.postgres.migrations import check_database

        assert settings.database_url is not None
        await check_database(settings.database_url, settings.prefix)
    return await survey(settings)


async def survey(settings: Settings) -> Sequence[str]:
    """Return what the operator should know about the store's own settings. Raises SettingsError as `prepare` does."""
    if settings.transport not in ("redis", "redis-pubsub"):
        return ()
    from tidewire.transports.redis.server_info import check_server

    found = await check_server(settings.redis_url, settings.rest_url, settings.rest_token)
    return () if settings.transport == "redis-pubsub" else found  # which keeps nothing that could be evicted


def make_hub(settings: Settings, *, stateless: bool = False) -> Hub:
    """Return a hub over that transport, which follows revocations if it requires tokens. Raises SettingsError.

    It warns of unknown settings and of keys that protect nothing, in every role, and of each only once.
    """
    for sentence in unknown_variables(settings.variables):
        _warn_once(sentence)
    if settings.publish_keys and not settings.auth_required:
        _warn_once("REALTIME_AUTH=none: whoever has no key of REALTIME_PUBLISH_KEYS can publish too")
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
    """Log a warning; not again where a rotated secret makes another hub of the same settings."""
    logger.warning(sentence)


def _make_tracer(settings: Settings) -> Tracer:
    try:
        from tidewire.monitoring.opentelemetry import Tracing
    except ModuleNotFoundError as error:
        asking = next(name for name in TRACE_VARIABLES if name in settings.variables)
        raise SettingsError(
            asking,
            f"asks for traces, and {error.name} is not installed: install requirements-tracing.txt, or set"
            " OTEL_TRACES_EXPORTER=none",
        ) from None
    return Tracing.from_settings(settings, make_partitions(settings))


def make_partitions(settings: Settings) -> Partitions:
    """Return the partition scheme that publishers and subscribers must share."""
    return Partitions(settings.partitions, settings.user_shards)
