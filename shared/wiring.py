"""Settings → transport → hub: the only module that imports adapters, each only where it is used."""

from shared.config import Settings
from shared.hub import Hub
from shared.partitions import Partitions
from shared.transports.base import Retention, Transport


def make_transport(settings: Settings) -> Transport:
    """Return the transport that the settings name, not connected yet."""
    partitions = make_partitions(settings)
    retention = Retention(settings.retention, settings.max_events, settings.idempotency_window)
    if settings.transport == "memory":
        from shared.transports.memory import MemoryLog

        return MemoryLog(partitions, retention)
    from shared.transports.redis_streams import RedisStreams

    assert settings.redis_url is not None  # Settings has seen to it
    return RedisStreams(settings.redis_url, settings.prefix, partitions, retention)


def make_hub(settings: Settings) -> Hub:
    """Return a hub over that transport."""
    return Hub(make_transport(settings), make_partitions(settings), heartbeat=settings.heartbeat)


def make_partitions(settings: Settings) -> Partitions:
    """Return the partition scheme that publishers and subscribers must share."""
    return Partitions(settings.partitions, settings.user_shards)
