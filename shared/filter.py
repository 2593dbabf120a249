"""Who sees what: the one predicate that live delivery and replay share."""

import msgspec

from shared.event import Event


class Interest(msgspec.Struct, frozen=True):
    """What a subscriber may and wants to see: events for everyone and for `user_id`, of `types` (None is all)."""

    user_id: str | None = None
    types: frozenset[str] | None = None

    def matches(self, event: Event) -> bool:
        """Tell whether the event goes to this subscriber; without a user id only events for everyone do."""
        if self.types is not None and event.type not in self.types:
            return False
        return event.user_ids is None or (self.user_id is not None and self.user_id in event.user_ids)
