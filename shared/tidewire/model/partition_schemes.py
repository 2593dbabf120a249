"""The partition schemes in use, recorded in the log itself, so that a change of the settings loses no event.

Each writer appends under its own scheme, and announces it in the control partition `realtime.schemes` before its first
append. An append carries the check of that partition's last record; the log refuses it if another scheme was announced
meanwhile. So every writer knows the other schemes and detects a retry whose first append went to another partition;
and every reader reads the partitions of all schemes. Without an announcement only the default scheme is in use.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self

import msgspec

from tidewire.model.audience import Interest
from tidewire.model.cursor import MAX_LENGTH
from tidewire.model.event import Event, new_id
from tidewire.model.partitions import ALL, SCHEMES, Partitions

logger = logging.getLogger(__name__)

MAX_ANNOUNCEMENTS = 64  # records of the control partition; eight schemes for two days make a third of them
LEARNED = 60_000  # ms until every process with a tail knows a new scheme; usually a round trip
_REMEDY = (
    " (REALTIME_PARTITIONS, REALTIME_USER_SHARDS): return to a scheme in use, or wait until the events and ids of an"
    " older scheme have expired"
)
TOO_MANY = f"The log holds events of so many partition schemes that a cursor cannot name all partitions{_REMEDY}"
LIST_FULL = (
    f"The log's list of partition schemes holds {MAX_ANNOUNCEMENTS} announcements; another one would remove a scheme"
    f" whose events are still in the log{_REMEDY}"
)

_POSITION = 24  # characters of one position in a cursor, with the largest offset
_FIXED = 16  # characters of a cursor's version and time


class Announcement(msgspec.Struct, frozen=True, rename="camel"):
    """A record of the control partition: a writer uses this scheme. Times in ms; `since` defaults to the record's."""

    types: tuple[str, ...]
    user_shards: int
    keep: int
    """Time after the last append in which the scheme's events and ids expire."""
    since: int | None = None

    @property
    def scheme(self) -> Partitions:
        """The partition scheme."""
        return Partitions(frozenset(self.types), self.user_shards)

    def event(self) -> Event:
        """Return the event to append to the control partition."""
        return Event(new_id(), SCHEMES, msgspec.json.encode(self))


class InUse(NamedTuple):
    """The times of a scheme's first and last announcement, in ms."""

    since: int
    renewed: int


_decoder = msgspec.json.Decoder(Announcement)


def read_announcement(event: Event) -> Announcement | None:
    """Return the announcement in a record of the control partition; logs an error and returns None if malformed."""
    try:
        return _decoder.decode(event.data)
    except msgspec.DecodeError:
        logger.error("a record of the partition %s is not a partition scheme", SCHEMES)  # noqa: TRY400 — holds its data
        return None


class Registry:
    """The schemes in use. `check` is that of the control partition's last record, "" if it is empty."""

    def __init__(self, check: str = "", announced: Iterable[tuple[Announcement, int]] = ()) -> None:
        """Create from announcements in order, each with the time of its record (ms); the log keeps the last ones."""
        self.check = check
        given = tuple(announced)
        self.announced = given[-MAX_ANNOUNCEMENTS:]
        self.in_use: dict[Partitions, InUse] = {}
        newest = max((time for _, time in given), default=0)
        for announcement, time in given:
            since = time if announcement.since is None else announcement.since
            self.in_use[announcement.scheme] = InUse(since, time)
        # Without a local clock: active writers renew, so a scheme has ended if another was renewed `keep` after it.
        for announcement, _ in given:
            scheme = announcement.scheme
            if scheme in self.in_use and self.in_use[scheme].renewed < newest - announcement.keep:
                del self.in_use[scheme]
        kept = {announcement.scheme for announcement, _ in self.announced}
        self.pushed_out = self.in_use.keys() - kept  # in use, but without a record in the log
        for scheme in self.pushed_out:
            del self.in_use[scheme]

    def extended(self, announced: Sequence[tuple[Announcement, int]], check: str) -> Self:
        """Return a registry with further announcements; `check` is that of the last record."""
        return type(self)(check, (*self.announced, *announced))

    def schemes(self, own: Partitions) -> list[Partitions]:
        """Return all schemes that a process with the scheme `own` must read, its own first."""
        others = self.in_use if self.announced else (Partitions(),)
        return list(dict.fromkeys((own, *others)))

    def partitions_for(self, own: Partitions, interest: Interest) -> tuple[str, ...]:
        """Return the partitions that can hold an event matching `interest` under any scheme in use."""
        return tuple(dict.fromkeys(name for scheme in self.schemes(own) for name in scheme.partitions_for(interest)))

    def begins(self, interest: Interest) -> Mapping[str, int]:
        """Return the time (ms) of the first append to each partition that `interest` needs."""
        begins: dict[str, int] = {}
        for scheme, use in self.in_use.items():
            for name in scheme.partitions_for(interest):
                begins[name] = min(use.since, begins.get(name, use.since))
        return begins

    def types(self, own: Partitions) -> frozenset[str]:
        """Return the types with a partition of their own in any announced scheme."""
        return own.types.union(*(announcement.types for announcement, _ in self.announced))


def longest_cursor(schemes: Iterable[Partitions]) -> int:
    """Return the maximum length, in characters, of a cursor over all of these schemes."""
    names: set[str] = set()
    for scheme in schemes:
        for base in (ALL, *scheme.types):
            names.add(base)
            if scheme.user_shards:
                names.add(f"{base}:u{scheme.user_shards - 1}")
    packed = sum(1 + len(name) + 6 for name in names)
    return _FIXED + math.ceil(packed * 4 / 3) + _POSITION * len(names)


def fit_cursor(schemes: Iterable[Partitions]) -> bool:
    """Whether a cursor over all of these schemes is at most `MAX_LENGTH` characters long."""
    return longest_cursor(schemes) <= MAX_LENGTH
