"""Limits that end in a 429: events per publish key, connections per instance and per user."""

import hashlib
import math

from tidewire.errors import TooManyRequests
from tidewire.model.permissions import PublishKey
from tidewire.primitives.token_bucket import LocalBuckets
from tidewire.settings.variables import Rate
from tidewire.transports.base import Buckets, Transport

CONNECTIONS_RETRY = 5  # seconds until a connection may be free


class PublishRate:
    """A token bucket per publish key: in the store, for all processes, if it can count; else in this process."""

    def __init__(self, rate: Rate | None, transport: Transport) -> None:
        self._rate = rate
        self._buckets: Buckets = transport if isinstance(transport, Buckets) else LocalBuckets()

    async def take(self, key: PublishKey | None, events: int) -> None:
        """Count so many events, each copy for a user shard as one. Raises TooManyRequests and TransportUnavailable.

        Without a limit this costs nothing. With one it costs a round trip before the append: in a cluster an append is
        made in the slot of its partition, and a bucket cannot be in all slots.
        """
        if self._rate is None:
            return
        # Not named by the key itself: whoever can list the names in the store must not be able to publish.
        bucket = "anyone" if key is None else hashlib.sha256(key.secret.encode()).hexdigest()[:16]
        wait = await self._buckets.take(bucket, events, *self._rate)
        if wait > 0:
            maximum, seconds = self._rate
            raise TooManyRequests(
                f"This key may publish {maximum:,} events, or copies for user shards, per {seconds:g} s"
                " (REALTIME_PUBLISH_RATE)",
                "publish-rate",
                math.ceil(wait),
            )


class Connections:
    """Open streams and long polls of this instance; a maximum of 0 is no limit, and costs nothing."""

    def __init__(self, maximum: int, maximum_per_user: int) -> None:
        self._maximum = maximum
        self._maximum_per_user = maximum_per_user
        self._open = 0
        self._by_user: dict[str, int] = {}

    def enter(self, user_id: str | None) -> None:
        """Count one more. Raises TooManyRequests."""
        if self._maximum and self._open >= self._maximum:
            raise TooManyRequests(
                f"This instance holds {self._maximum:,} connections (REALTIME_MAX_CONNECTIONS)",
                "connections",
                CONNECTIONS_RETRY,
            )
        if self._maximum_per_user and user_id is not None:
            count = self._by_user.get(user_id, 0)
            if count >= self._maximum_per_user:
                raise TooManyRequests(
                    f"This user has {count:,} connections (REALTIME_MAX_USER_CONNECTIONS)",
                    "user-connections",
                    CONNECTIONS_RETRY,
                )
            self._by_user[user_id] = count + 1
        self._open += 1

    def leave(self, user_id: str | None) -> None:
        """Count one less."""
        self._open -= 1
        if self._maximum_per_user and user_id is not None:
            self._by_user[user_id] -= 1
            if not self._by_user[user_id]:
                del self._by_user[user_id]
