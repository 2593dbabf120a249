"""What is reckoned with: how many users and events, and how a deployment is set up."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

Transport = Literal["redis-tcp", "upstash-rest", "postgres"]
TRANSPORTS: tuple[Transport, ...] = ("redis-tcp", "upstash-rest", "postgres")

MONTH_HOURS = 730.0  # as AWS counts a month
MONTH_SECONDS = MONTH_HOURS * 3600
MAX_AUDIENCE = 1_000  # users that an event may name
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
}
"""The least and the most that each number may be."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A month's use. All numbers are of a month, or of one of what they count."""

    users: int
    events: int
    delivered: float = 1_000.0
    """Events that one user is sent."""
    hours: float = 40.0
    """Hours that one user is connected."""
    sessions: int = 20
    """Times that one user opens the application."""
    event_bytes: int = 300
    """Of an event's data."""
    batch: int = 1
    """Events of one publish request."""
    memory: int = 512
    """MB of a Lambda function."""
    stream_seconds: float = 300.0
    """Seconds after which a stream on Lambda ends by itself."""
    request_ms: float = 50.0
    """Billed ms of a function that answers one request, waiting not included."""
    poll_every: float = 10.0
    """Seconds between one poll's answer and the next poll."""
    poll_wait: float = 0.0
    """Seconds that a poll waits for an event."""
    peak: float = 4.0
    """How many times as many are connected in the busiest hour as on average."""
    processes: int = 2
    """Containers at least."""
    streams: int = 4_000
    """Streams that one process holds."""
    partitions: int = 0
    """Event types with a partition of their own."""
    shards: int = 0
    """User shards, 0 for none."""
    retention_hours: float = 24.0
    """Hours that the log keeps an event."""
    transport: Transport = "redis-tcp"
    rate_limited: bool = False
    """Whether publish keys have a rate."""
    bus: bool = False
    """Whether publishers reach the log by way of EventBridge."""
    netlify: bool = False
    """Whether publishers and polls come through Netlify's rewrites."""

    def with_users(self, users: int) -> Self:
        """Return the same with another number of users, each as busy as before."""
        return replace(self, users=users)

    def with_events(self, events: int) -> Self:
        """Return the same with more or fewer events, of which each user is sent the same part."""
        part = self.delivered / self.events if self.events else 0.0
        return replace(self, events=events, delivered=part * events)

    @property
    def sent(self) -> float:
        """Events that one user is sent: no more than there are."""
        return min(self.delivered, self.events)

    @property
    def audience(self) -> float:
        """Users that one event is for."""
        return min(self.users * self.sent / self.events, MAX_AUDIENCE) if self.events else 0.0

    @property
    def requests(self) -> float:
        """Publish requests."""
        return self.events / self.batch

    @property
    def connected(self) -> float:
        """Users that are connected at one time, on average."""
        return self.users * self.hours / MONTH_HOURS

    @property
    def connected_at_peak(self) -> float:
        """Users that are connected in the busiest hour."""
        return min(self.connected * self.peak, self.users)

    @property
    def session_seconds(self) -> float:
        """Seconds of one session."""
        return self.hours * 3600 / self.sessions

    @property
    def streams_a_session(self) -> float:
        """Streams on Lambda that follow one another in a session.

        The last one runs on after its client has left, which Lambda does not see: half its length on average.
        """
        return max(1.0, self.session_seconds / self.stream_seconds + 0.5) if self.hours else 0.0
