"""Who sees what: the one predicate that live delivery and replay share."""

from typing import Protocol

import msgspec


class Addressed(Protocol):
    """An event, or the part of it that says whom it is for."""

    @property
    def type(self) -> str: ...
    @property
    def user_ids(self) -> tuple[str, ...] | None: ...


class Interest(msgspec.Struct, frozen=True):
    """What a subscriber may and wants to see: events for everyone and for `user_id`, of `types` (None is all).

    Where `types` is a set, so are the types that begin with one of `prefixes`. No prefix covers another one or a type.
    """

    user_id: str | None = None
    types: frozenset[str] | None = None
    prefixes: tuple[str, ...] = ()

    def matches(self, event: Addressed) -> bool:
        """Tell whether the event goes to this subscriber; without a user id only events for everyone do."""
        if not self.allows_type(event.type):
            return False
        return event.user_ids is None or (self.user_id is not None and self.user_id in event.user_ids)

    def allows_type(self, type: str) -> bool:
        """Tell whether events of this type may go to the subscriber."""
        return self.types is None or type in self.types or (bool(self.prefixes) and type.startswith(self.prefixes))
