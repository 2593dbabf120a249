"""Permissions: the event types that a publish key may publish and a token may receive, and a key's other rights."""

import re
from collections.abc import Iterable
from typing import Self

import msgspec

TYPE_OR_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,128}|[A-Za-z0-9._-]{0,127}\*", re.ASCII)
"""An event type, or a prefix followed by `*`."""


class AllowedTypes(msgspec.Struct, frozen=True):
    """A set of event types: exact names, and prefixes. No prefix covers a name or another prefix."""

    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()  # "" is every type

    @classmethod
    def parse(cls, patterns: Iterable[str]) -> Self:
        """Return the set of these names and patterns, each of which must match `TYPE_OR_PATTERN`."""
        given = set(patterns)
        candidates = sorted({pattern[:-1] for pattern in given if pattern.endswith("*")})
        prefixes: list[str] = []
        for prefix in candidates:  # sorted, so that a prefix follows directly on the one that covers it
            if not prefixes or not prefix.startswith(prefixes[-1]):
                prefixes.append(prefix)
        names = (name for name in given if not name.startswith(tuple(prefixes)))  # a pattern starts with its own prefix
        return cls(frozenset(names), tuple(prefixes))

    def __contains__(self, type: str) -> bool:
        return type in self.names or type.startswith(self.prefixes)

    def covers(self, pattern: str) -> bool:
        """Whether every type that matches this name or pattern is in the set."""
        return pattern in self  # for a pattern too: no name has a `*`, and a longer prefix starts with a shorter one

    def patterns(self) -> list[str]:
        """Return the names and patterns of this set; `parse` makes an equal set of them."""
        return sorted(self.names) + [f"{prefix}*" for prefix in self.prefixes]


TOKENS, REVOCATIONS = "realtime.tokens", "realtime.revocations"
PERMISSIONS = frozenset({TOKENS, REVOCATIONS})
"""What a publish key may do besides publishing. The names are reserved types, so none can be mistaken for a type."""


class PublishKey(msgspec.Struct, frozen=True):
    """A publish key. `types` None allows all types; a key without limits has all permissions."""

    secret: str
    types: AllowedTypes | None = None
    permissions: frozenset[str] = PERMISSIONS
