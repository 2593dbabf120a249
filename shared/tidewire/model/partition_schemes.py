"""The partition schemes in use, as the log itself knows them: what makes a change of the settings lose nothing.

Each writer appends under its own scheme, and announces it in the control partition `realtime.schemes` before its first
append. An append names the check of that partition's last record; the log refuses it if another scheme was announced
meanwhile. So every writer knows the other schemes, and finds a retry whose first append went elsewhere; and every
reader reads what all of them need. While nobody ever announced one, only the default scheme is in use.
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

MAX_ANNOUNCEMENTS = 64  # records that the control partition keeps; two days of eight schemes are a third of them
LEARNED = 60_000  # ms in which every process with a tail has learned of a new scheme; it takes a round trip
_GO_BACK = (
    " (REALTIME_PARTITIONS, REALTIME_USER_SHARDS): go back to a scheme that is in use, or wait until an older one's"
    " events and ids are no longer kept"
)
TOO_MANY = f"The log still holds events of so many partition schemes that no cursor could name all partitions{_GO_BACK}"
LIST_FULL = (
    f"The log's list of partition schemes keeps {MAX_ANNOUNCEMENTS} announcements, and one more would push out a scheme"
    f" whose events the log still holds{_GO_BACK}"
)

_PLACE = 24  # characters of one place in a cursor, with the largest offset
_FRAME = 16  # … and of the cursor's version and time


class Announcement(msgspec.Struct, frozen=True, rename="camel"):
    """A writer uses this scheme. Times in ms; `since` None is the time of the record."""

    types: tuple[str, ...]
    user_shards: int
    keep: int
    """How long nobody may append under the scheme before its partitions are empty and its ids forgotten."""
    since: int | None = None

    @property
    def scheme(self) -> Partitions:
        """Return the scheme."""
        return Partitions(frozenset(self.types), self.user_shards)

    def event(self) -> Event:
        """Return the event that stands in the control partition."""
        return Event(new_id(), SCHEMES, msgspec.json.encode(self))


class InUse(NamedTuple):
    """When a scheme was first announced, and when last; in ms."""

    since: int
    renewed: int


_decoder = msgspec.json.Decoder(Announcement)


def read_announcement(event: Event) -> Announcement | None:
    """Return the announcement in a record of the control partition; None, and a line in the log, if it is none."""
    try:
        return _decoder.decode(event.data)
    except msgspec.DecodeError:
        logger.error("a record of the partition %s is not a partition scheme", SCHEMES)  # noqa: TRY400 — its data
        return None


class Registry:
    """The schemes in use. `check` is that of the control partition's last record, "" while it has none."""

    def __init__(self, check: str = "", announced: Iterable[tuple[Announcement, int]] = ()) -> None:
        """Take the announcements in their order, each with the time of its record; the log keeps the last ones."""
        self.check = check
        given = tuple(announced)
        self.announced = given[-MAX_ANNOUNCEMENTS:]
        self.in_use: dict[Partitions, InUse] = {}
        newest = max((time for _, time in given), default=0)
        for announcement, time in given:
            since = time if announcement.since is None else announcement.since
            self.in_use[announcement.scheme] = InUse(since, time)
        # No clock is asked: who still writes renews, so a scheme is over when another one outlived it by so much.
        for announcement, _ in given:
            scheme = announcement.scheme
            if scheme in self.in_use and self.in_use[scheme].renewed < newest - announcement.keep:
                del self.in_use[scheme]
        kept = {announcement.scheme for announcement, _ in self.announced}
        self.pushed_out = self.in_use.keys() - kept  # in use, but no record of the log says so any more
        for scheme in self.pushed_out:
            del self.in_use[scheme]

    def extended(self, announced: Sequence[tuple[Announcement, int]], check: str) -> Self:
        """Return the registry after further records, the last one with this check."""
        return type(self)(check, (*self.announced, *announced))

    def schemes(self, own: Partitions) -> list[Partitions]:
        """Return all schemes that a process with the scheme `own` has to read, its own first."""
        others = self.in_use if self.announced else (Partitions(),)
        return list(dict.fromkeys((own, *others)))

    def partitions_for(self, own: Partitions, interest: Interest) -> tuple[str, ...]:
        """Return the partitions that can hold an event matching `interest` under any scheme in use."""
        return tuple(dict.fromkeys(name for scheme in self.schemes(own) for name in scheme.partitions_for(interest)))

    def begins(self, interest: Interest) -> Mapping[str, int]:
        """Return since when (ms) each partition that `interest` needs has been written to."""
        begins: dict[str, int] = {}
        for scheme, use in self.in_use.items():
            for name in scheme.partitions_for(interest):
                begins[name] = min(use.since, begins.get(name, use.since))
        return begins

    def types(self, own: Partitions) -> frozenset[str]:
        """Return the types that have or had a partition of their own, as far as is remembered."""
        return own.types.union(*(announcement.types for announcement, _ in self.announced))


def longest_cursor(schemes: Iterable[Partitions]) -> int:
    """Return the most characters that a cursor of someone who reads all of these schemes can have."""
    names: set[str] = set()
    for scheme in schemes:
        for base in (ALL, *scheme.types):
            names.add(base)
            if scheme.user_shards:
                names.add(f"{base}:u{scheme.user_shards - 1}")
    packed = sum(1 + len(name) + 6 for name in names)
    return _FRAME + math.ceil(packed * 4 / 3) + _PLACE * len(names)


def fit_cursor(schemes: Iterable[Partitions]) -> bool:
    """Tell whether a cursor can name all partitions that somebody has to read under these schemes."""
    return longest_cursor(schemes) <= MAX_LENGTH
