"""Which event types somebody may send or hear: exact names, and patterns that end in `*`."""

import re
from collections.abc import Iterable
from typing import Self

import msgspec

TYPE_OR_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,128}|[A-Za-z0-9._-]{0,127}\*", re.ASCII)
"""An event type, or the beginning of some and `*`."""


class Types(msgspec.Struct, frozen=True):
    """A set of event types. None of its parts covers another: a type is in it for one reason only."""

    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()  # "" is every type

    @classmethod
    def parse(cls, patterns: Iterable[str]) -> Self:
        """Return the set of these names and patterns, each of which matches `TYPE_OR_PATTERN`."""
        given = set(patterns)
        beginnings = sorted({pattern[:-1] for pattern in given if pattern.endswith("*")})
        prefixes: list[str] = []
        for beginning in beginnings:  # in order, so that what covers a pattern comes right before it
            if not prefixes or not beginning.startswith(prefixes[-1]):
                prefixes.append(beginning)
        names = (name for name in given if not name.endswith("*") and not name.startswith(tuple(prefixes)))
        return cls(frozenset(names), tuple(prefixes))

    def __contains__(self, type: str) -> bool:
        return type in self.names or type.startswith(self.prefixes)

    def covers(self, pattern: str) -> bool:
        """Tell whether every type that matches this name or pattern is in the set."""
        return pattern[:-1].startswith(self.prefixes) if pattern.endswith("*") else pattern in self

    def patterns(self) -> list[str]:
        """Return what `parse` makes this set of."""
        return sorted(self.names) + [f"{prefix}*" for prefix in self.prefixes]


TOKENS, REVOCATIONS = "realtime.tokens", "realtime.revocations"
RIGHTS = frozenset({TOKENS, REVOCATIONS})
"""What a publish key may do besides publishing. The names are of reserved types: no event type can be taken for one."""


class PublishKey(msgspec.Struct, frozen=True):
    """A publish key and what it may do; `types` None is all types. A key that was not limited may do everything."""

    secret: str
    types: Types | None = None
    rights: frozenset[str] = RIGHTS
