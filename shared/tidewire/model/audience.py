"""The audience predicate, which live delivery and replay share: which subscriber receives which event.

`tidewire.security.tokens.interest_of` makes a subscriber's `Interest` from its token.
"""

from typing import Protocol

import msgspec


class Addressed(Protocol):
    """An event, or the part of it that decides its audience."""

    @property
    def type(self) -> str: ...
    @property
    def user_ids(self) -> tuple[str, ...] | None: ...


class Interest(msgspec.Struct, frozen=True):
    """The events that a subscriber receives: those for everyone and for `user_id`, of `types` (None is all types).

    If `types` is a set, types that begin with one of `prefixes` belong to it too. No prefix covers another one or a
    type.
    """

    user_id: str | None = None
    types: frozenset[str] | None = None
    prefixes: tuple[str, ...] = ()

    def matches(self, event: Addressed) -> bool:
        """Whether this subscriber receives the event; without a user id, only events for everyone match."""
        if not self.allows_type(event.type):
            return False
        return event.user_ids is None or (self.user_id is not None and self.user_id in event.user_ids)

    def allows_type(self, type: str) -> bool:
        """Whether this subscriber receives events of this type."""
        return self.types is None or type in self.types or (bool(self.prefixes) and type.startswith(self.prefixes))
