"""The workload of an estimate: users, events, and the settings of the deployment."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

Transport = Literal["redis-tcp", "upstash-rest", "redis-cluster", "postgres"]
TRANSPORTS: tuple[Transport, ...] = ("redis-tcp", "upstash-rest", "redis-cluster", "postgres")

MONTH_HOURS = 730.0  # AWS's convention
MONTH_SECONDS = MONTH_HOURS * 3600
MAX_AUDIENCE = 1_000  # user ids of one event
MAX_REQUEST_BYTES = 1024 * 1024  # of a publish request

LIMITS: Mapping[str, tuple[float, float]] = {
    "users": (0, 100_000_000),
    "events": (0, 100_000_000_000),
    "hours": (0, MONTH_HOURS),
    "sessions": (1, 10_000),
    "delivered": (0, 1_000_000_000),
    "event_bytes": (1, 256 * 1024),
    "batch": (1, 100),
    "memory": (128, 10_240),
    "stream_seconds": (10, 900),
    "request_ms": (1, 900_000),
    "poll_every": (0, 3_600),
    "poll_wait": (0, 20),
    "peak": (1, 1_000),
    "processes": (1, 1_000),
    "streams": (1, 60_000),
    "partitions": (0, 16),
    "shards": (0, 256),
    "retention_hours": (1, 8_760),
    "nodes": (1, 500),
}
"""The minimum and maximum of each number."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A month's workload. Totals are per month."""

    users: int
    events: int
    delivered: float = 1_000.0
    """Events that one user receives."""
    hours: float = 40.0
    """Connected hours of one user."""
    sessions: int = 20
    """Times that one user opens the application."""
    event_bytes: int = 300
    """Bytes of an event's data."""
    batch: int = 1
    """Events of one publish request."""
    memory: int = 512
    """MB of a Lambda function."""
    stream_seconds: float = 300.0
    """Lifetime of a stream on Lambda, in seconds."""
    request_ms: float = 50.0
    """Billed milliseconds of a function per request, without waiting for events."""
    poll_every: float = 10.0
    """Seconds between a poll's response and the next poll."""
    poll_wait: float = 0.0
    """Seconds that a poll waits for an event."""
    peak: float = 4.0
    """Connected users in the busiest hour, divided by the average."""
    processes: int = 2
    """Minimum number of containers."""
    streams: int = 4_000
    """Streams per process."""
    partitions: int = 0
    """Event types with a partition of their own."""
    shards: int = 0
    """User shards, 0 for none."""
    retention_hours: float = 24.0
    """Hours that the log keeps an event."""
    nodes: int = 6
    """Nodes of the Redis Cluster, half of them replicas."""
    transport: Transport = "redis-tcp"
    rate_limited: bool = False
    """Whether publish keys have a rate."""
    bus: bool = False
    """Whether publishers use EventBridge."""
    netlify: bool = False
    """Whether publishers and polls go through Netlify's rewrites."""

    def with_users(self, users: int) -> Self:
        """Return a workload with another number of users, each with the same activity."""
        return replace(self, users=users)

    def with_events(self, events: int) -> Self:
        """Return a workload with another number of events, of which each user receives the same share."""
        share = self.delivered / self.events if self.events else 0.0
        return replace(self, events=events, delivered=share * events)

    @property
    def sent(self) -> float:
        """Events that one user receives, at most all of them."""
        return min(self.delivered, self.events)

    @property
    def audience(self) -> float:
        """Users in the audience of one event."""
        return min(self.users * self.sent / self.events, MAX_AUDIENCE) if self.events else 0.0

    @property
    def requests(self) -> float:
        """Publish requests."""
        return self.events / self.batch

    @property
    def connected(self) -> float:
        """Concurrently connected users, on average."""
        return self.users * self.hours / MONTH_HOURS

    @property
    def connected_at_peak(self) -> float:
        """Concurrently connected users in the busiest hour."""
        return min(self.connected * self.peak, self.users)

    @property
    def session_seconds(self) -> float:
        """Seconds of one session."""
        return self.hours * 3600 / self.sessions

    @property
    def streams_per_session(self) -> float:
        """Consecutive streams on Lambda in one session.

        Lambda does not notice when the client leaves, so the last stream runs on for half its lifetime on average.
        """
        return max(1.0, self.session_seconds / self.stream_seconds + 0.5) if self.hours else 0.0
