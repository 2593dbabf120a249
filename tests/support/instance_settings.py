"""Settings of an instance on each store, open to everyone."""

from tests.support.processes import RedisServer
from tests.support.redis_cluster import RedisCluster
from tests.support.upstash_stand_in import StandIn

FAST_POLLS = {"REALTIME_POLL_MIN": "10ms", "REALTIME_POLL_MAX": "100ms"}
FALLBACK = {"REALTIME_FALLBACK": "memory"}


def on_redis(redis: RedisServer | RedisCluster, **more: str) -> dict[str, str]:
    """Settings for the log in this Redis, or in this cluster."""
    return {"REALTIME_TRANSPORT": "redis", "REDIS_URL": redis.url, "REALTIME_AUTH": "none", **more}


def on_pubsub(redis: RedisServer, **more: str) -> dict[str, str]:
    """Settings for Pub/Sub on this Redis."""
    return on_redis(redis, REALTIME_TRANSPORT="redis-pubsub", **more)


def on_rest(upstash: StandIn, **more: str) -> dict[str, str]:
    """Settings for the log in a Redis that is reached over REST only."""
    open_to_all = {"REALTIME_TRANSPORT": "redis", "REALTIME_AUTH": "none"}
    return {**open_to_all, "REDIS_URL": upstash.url, "REDIS_TOKEN": upstash.token, **more}


def on_postgres(url: str, **more: str) -> dict[str, str]:
    """Settings for the log in this Postgres database."""
    return {"REALTIME_TRANSPORT": "postgres", "DATABASE_URL": url, "REALTIME_AUTH": "none", **more}
