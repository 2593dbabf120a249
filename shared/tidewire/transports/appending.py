"""Appending under a partition scheme while other processes may use another one. Shared by all logs.

The store compares the registry's check with the one that the writer expects, in the same atomic step as the append: a
writer that has not read a new scheme yet is refused, reads the registry and appends again. While only the default
scheme is in use, that costs nothing. A writer announces its own scheme before its first append, and again after half of
the time for which the log keeps events and ids.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from tidewire.errors import TransportRefused, TransportUnavailable
from tidewire.model.cursor import Position
from tidewire.model.event import Event
from tidewire.model.partition_schemes import LIST_FULL, MAX_ANNOUNCEMENTS, TOO_MANY, Announcement, Registry, fit_cursor
from tidewire.model.partitions import SCHEMES, Partitions
from tidewire.transports.base import Receipt, Retention

FOREVER = Retention(315_360_000.0, MAX_ANNOUNCEMENTS, 86_400.0)
"""The retention of the control partition: ten years, and bounded by its number of records."""

_MINIMUM_KEEP = 3_600.0  # seconds: under a short retention, announcements would be renewed all the time
_ROUNDS = 20  # refusals of one publication; each is a scheme that was announced at the same moment


class Part(NamedTuple):
    """An event to be appended to one partition.

    `scope` identifies duplicates there; `others` are the partitions and scopes of the event under other schemes.
    """

    number: int
    partition: str
    event: Event
    scope: str
    others: tuple[tuple[str, str], ...] = ()


class Placed(NamedTuple):
    """The event is in its partition; `duplicate`: it was there before this append."""

    position: Position
    duplicate: bool


Elsewhere = Mapping[tuple[str, str], Position]
"""The members of `Part.others` in which an event is known, with its positions."""

Answer = Placed | Elsewhere | TransportUnavailable | None
"""Placed; or, if the event is known under other schemes, its positions there: nothing was appended; or the error of a
store of several nodes, one of which was lost; None: refused, since the writer does not know the registry's newest
announcement."""

Append = Callable[[str, Sequence[Part]], Awaitable[tuple[Sequence[Answer], Registry | None]]]
"""(expected check, parts) → an answer for each part, and the registry if its check is not the expected one."""


class Writer:
    """Routes events to partitions, and appends them by the store's `append`. Raises TransportUnavailable.

    `under_newest_scheme` is for a store that cannot compare ids of several partitions in one atomic step: while several
    schemes are in use, all writers that know them append under the one that was announced last. So only its partitions
    grow, and an id that another scheme has already is found by a read before the append.
    """

    def __init__(
        self,
        scheme: Partitions,
        retention: Retention,
        append: Append,
        clock: Callable[[], float] = time.time,
        *,
        under_newest_scheme: bool = False,
    ) -> None:
        self.registry = Registry()
        self._scheme = scheme
        self._keep = max(retention.age + retention.idempotency_window, _MINIMUM_KEEP)
        self._append = append
        self._clock = clock
        self._announced = 0.0
        self._under_newest_scheme = under_newest_scheme

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Append all events; see `Transport.publish`."""
        positions: list[dict[str, Position]] = [{} for _ in events]
        duplicate = [True] * len(events)
        scheme = self._scheme
        left = _parts(scheme, dict(enumerate(events)))
        lost: dict[int, TransportUnavailable] = {}
        for _ in range(_ROUNDS):
            if not left:
                if lost:  # not before: the others are named as appended
                    raise _partly_lost(lost, events)
                return [Receipt(e.id, p, d) for e, p, d in zip(events, positions, duplicate, strict=True)]
            await self.announce()
            if self._under_newest_scheme and (newest := self._newest_scheme()) != scheme:
                scheme = newest
                left = _parts(scheme, {part.number: events[part.number] for part in left})
            parts = self._with_others(left, events, scheme)
            answers, registry = await self._append(self.registry.check, parts)
            left = []
            for part, answer in zip(parts, answers, strict=True):
                if answer is None:
                    left.append(part)
                elif isinstance(answer, TransportUnavailable):
                    lost[part.number] = answer
                elif isinstance(answer, Placed):
                    _note(positions[part.number], part.partition, answer.position)
                    duplicate[part.number] = duplicate[part.number] and answer.duplicate
                else:
                    for (name, _), position in answer.items():
                        _note(positions[part.number], name, position)
                    if (rest := self._unserved(part, events[part.number], answer, scheme)) is not None:
                        left.append(rest)
            if registry is not None:
                self.registry = registry
        raise TransportUnavailable(
            "The partition schemes of the log keep changing: set the same REALTIME_PARTITIONS and"
            " REALTIME_USER_SHARDS on all instances"
        )

    async def announce(self) -> None:
        """Announce this writer's scheme if the registry lacks it, or if the announcement is old.

        Raises TransportUnavailable: TransportRefused if the list of schemes is full.
        """
        for _ in range(_ROUNDS):
            due = self._due()
            if not due:
                return
            self._check_room(due)
            parts = [_announcing(index, announcement) for index, announcement in enumerate(due)]
            answers, registry = await self._append(self.registry.check, parts)
            if registry is not None:
                self.registry = registry
                continue
            for answer in answers:
                if isinstance(answer, TransportUnavailable):
                    raise answer
            placed = [answer.position for answer in answers if isinstance(answer, Placed)]
            times = [position.time for position in placed]
            self.registry = self.registry.extended(list(zip(due, times, strict=True)), placed[-1].check)
            self._announced = self._clock()

    def _check_room(self, due: Sequence[Announcement]) -> None:
        """Raise TransportRefused if the list of schemes is full.

        The list is checked as it will be after the announcement, without schemes that were not renewed in time: else
        the last schemes of a log that was idle for weeks would stay in use, and no other could be announced.
        """
        now = int(self._clock() * 1000)
        then = self.registry.extended([(announcement, now) for announcement in due], "")
        if not fit_cursor(then.schemes(self._scheme)):
            raise TransportRefused(TOO_MANY)
        if then.pushed_out and self._scheme not in self.registry.in_use:  # a renewal is never refused
            raise TransportRefused(LIST_FULL)

    def _due(self) -> list[Announcement]:
        if not self.registry.announced:
            if self._scheme == Partitions():
                return []
            # Writers under the default scheme have never announced it: from now on it is one among others.
            return [self._announcement(Partitions(), 0), self._announcement(self._scheme)]
        use = self.registry.in_use.get(self._scheme)
        if use is None:
            return [self._announcement(self._scheme)]
        now = self._clock()
        old = use.renewed / 1000 < now - self._keep / 2
        if old and self._announced < now - self._keep / 4:  # even if this clock is days ahead of the store's
            return [self._announcement(self._scheme, use.since)]
        return []

    def _announcement(self, scheme: Partitions, since: int | None = None) -> Announcement:
        return Announcement(tuple(sorted(scheme.types)), scheme.user_shards, int(self._keep * 1000), since)

    def _newest_scheme(self) -> Partitions:
        """Return the scheme in use that was announced last; the same for every writer that knows the registry."""
        in_use = self.registry.in_use
        return max(in_use, key=lambda scheme: in_use[scheme].since, default=self._scheme)

    def _pieces(self, event: Event, scheme: Partitions) -> list[tuple[tuple[str, str], Event]]:
        """Return the (partition, scope) of an event under other schemes; they may equal those under this one."""
        others = self.registry.schemes(scheme)[1:] if self.registry.announced else ()
        return [((name, other.scope(name, piece)), piece) for other in others for name, piece in other.route(event)]

    def _with_others(self, parts: Sequence[Part], events: Sequence[Event], scheme: Partitions) -> list[Part]:
        if not self.registry.announced:
            return list(parts)
        found = []
        for part in parts:
            users = part.event.user_ids
            others = dict.fromkeys(
                place
                for place, piece in self._pieces(events[part.number], scheme)
                if place != (part.partition, part.scope)
                and (users is None or not set(users).isdisjoint(piece.user_ids or ()))
            )
            found.append(part._replace(others=tuple(others)))
        return found

    def _unserved(self, part: Part, event: Event, known: Elsewhere, scheme: Partitions) -> Part | None:
        """Return the part for those of its users who have it under no other scheme; None if there are none.

        An append to several partitions may have ended half way, and its retry may use another scheme.
        """
        users = part.event.user_ids
        if users is None:
            return None
        served = {
            user for place, piece in self._pieces(event, scheme) if place in known for user in piece.user_ids or ()
        }
        rest = tuple(user for user in users if user not in served)
        return part._replace(event=msgspec.structs.replace(part.event, user_ids=rest)) if rest else None


def _partly_lost(lost: Mapping[int, TransportUnavailable], events: Sequence[Event]) -> TransportUnavailable:
    """Return the error for a publication that names each event of which a part was lost; the others were appended."""
    first = next(iter(lost.values()))
    if len(events) == 1:
        return first
    errors = [(f"/{number}", error.detail) for number, error in sorted(lost.items())]
    landed = len(events) - len(lost)
    detail = f"{first.detail}; {landed} of {len(events)} events were appended, those that errors does not name"
    return type(first)(detail, first.retry_after, errors)


def _parts(scheme: Partitions, events: Mapping[int, Event]) -> list[Part]:
    """Return the parts of events under a scheme; `events` is by number."""
    return [
        Part(number, partition, stored, scheme.scope(partition, stored))
        for number, event in events.items()
        for partition, stored in scheme.route(event)
    ]


def _announcing(index: int, announcement: Announcement) -> Part:
    event = announcement.event()
    return Part(index, SCHEMES, event, event.key)


def _note(positions: dict[str, Position], name: str, position: Position) -> None:
    """Keep an event's first position in a partition: other schemes may have appended it there for other users."""
    known = positions.get(name)
    if known is None or position[:2] < known[:2]:
        positions[name] = position
