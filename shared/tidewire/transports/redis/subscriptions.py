"""The subscriptions of a Pub/Sub tail: those it needs, and those that Redis has confirmed on the open connection."""

from collections import Counter
from collections.abc import Iterable


class Subscriptions:
    """The partitions that a tail follows: confirmed, pending, or lost with the last connection."""

    def __init__(self) -> None:
        self.followed: set[str] = set()
        self.confirmed: set[str] = set()
        self._lost: set[str] = set()  # confirmed on a connection that is gone: events since then are missing
        self._pending: Counter[str] = Counter()  # commands that Redis has not confirmed yet

    @property
    def are_confirmed(self) -> bool:
        """Whether events of all followed partitions arrive."""
        return self.followed <= self.confirmed

    @property
    def are_over(self) -> bool:
        """Whether no partition is followed, and no confirmation is on its way."""
        return not self.followed and not self._pending

    def pending(self, partition: str) -> int:
        """Return how many commands for a partition are not confirmed yet."""
        return self._pending[partition]

    def follow(self, partitions: Iterable[str]) -> None:
        """Add partitions."""
        self.followed.update(partitions)

    def unfollow(self, partitions: Iterable[str]) -> None:
        """Remove partitions; nothing that they miss from now on is a gap."""
        partitions = tuple(partitions)
        self.followed.difference_update(partitions)
        self._lost.difference_update(partitions)

    def note_command(self, partitions: Iterable[str]) -> None:
        """Note that a SUBSCRIBE or UNSUBSCRIBE of these partitions is about to be sent."""
        partitions = tuple(partitions)
        self.confirmed.difference_update(partitions)
        self._pending.update(partitions)

    def confirm(self, partition: str, *, subscribed: bool) -> bool:
        """Note Redis' confirmation of the oldest command; return whether the partition has missed events before it.

        Of several commands that are on their way, the last one's confirmation counts.
        """
        self._pending[partition] -= 1
        if self._pending[partition] > 0:
            return False
        del self._pending[partition]
        if not subscribed:
            return False
        self.confirmed.add(partition)
        has_gap = partition in self._lost
        self._lost.discard(partition)
        return has_gap

    def connection_lost(self) -> None:
        """Note that nothing is subscribed any more."""
        self._lost |= self.confirmed & self.followed
        self.confirmed.clear()
        self._pending.clear()
