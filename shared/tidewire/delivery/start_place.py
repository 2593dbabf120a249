"""The start of a subscriber: its cursor, a time or the head becomes a position in each partition, or a gap.

It is in the partitions of the schemes in use. The log itself (`tidewire.transports.log_base`) finds the gaps after
a valid cursor.
"""

import time
from collections.abc import Awaitable, Callable, Sequence

from tidewire.delivery.known_schemes import KnownSchemes
from tidewire.delivery.replay import Place
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Start
from tidewire.model.record import Gap
from tidewire.transports.base import Log, SeveralClocks

ReadHeads = Callable[[Sequence[str]], Awaitable[Cursor]]


def start_of_outage(start: Start) -> Start:
    """Return the start of a subscriber that came while the log was unavailable: without a cursor, the current time.

    The clock is this process's; the log compares it with its own.
    """
    if start.cursor is None and start.since == "now":
        return Start(since=int(time.time() * 1000))
    return start


async def find_place(
    log: Log | None,
    schemes: KnownSchemes,
    read_heads: ReadHeads,
    interest: Interest,
    start: Start,
    partitions: tuple[str, ...],
    heads: Cursor,
) -> Place:
    """Return where to begin in `partitions`; `heads` were read after the reader was registered.

    Raises TransportUnavailable.
    """
    if log is None:
        has_missed = start.cursor is not None or start.since != "now"
        return Place(partitions, {}, heads, [Gap("no-log", partitions[0], None)] if has_missed else ())
    if start.cursor is not None:
        place = await _after_cursor(log, schemes, read_heads, interest, start.cursor, partitions, heads)
    elif start.since == "now":
        place = Place(partitions, dict(heads.positions), heads)
    else:
        since = None if start.since == "earliest" else start.since
        place = Place(partitions, dict((await log.seek(partitions, since)).positions), heads)
    place.positions = {name: place.positions[name] for name in place.partitions}
    assert place.until is not None
    until = place.until.positions
    if any(at[:2] > until[name][:2] for name, at in place.positions.items()):
        # The log moved on while the place was searched in it: past the old head, it would look like a lost log.
        place.until = await read_heads(place.partitions)
    return place


async def _after_cursor(
    log: Log,
    schemes: KnownSchemes,
    read_heads: ReadHeads,
    interest: Interest,
    text: str,
    partitions: tuple[str, ...],
    heads: Cursor,
) -> Place:
    cursor = Cursor.parse(text)
    if cursor is None or not cursor.positions:
        places = dict((await log.seek(partitions, None)).positions)
        return Place(partitions, places, heads, [Gap("invalid", partitions[0], places[partitions[0]])])
    places = dict(heads.positions)
    missing = [name for name in partitions if name not in cursor.positions]
    if missing and cursor.time:  # it was written under another scheme: what came since then may be unseen
        # The time is that of another partition's clock, which may be ahead of these.
        tolerance = log.clock_tolerance if isinstance(log, SeveralClocks) else 0
        for begin, names in schemes.starts(interest, missing, cursor.time).items():
            places.update((await log.seek(names, max(begin - tolerance, 0))).positions)
    places.update(cursor.positions)
    readable, lost = schemes.left_over(interest, cursor)
    gaps = [Gap("trimmed", partitions[0], places[partitions[0]])] if lost else ()
    if readable:
        more = await read_heads(readable)
        heads = Cursor({**heads.positions, **more.positions})
    return Place((*partitions, *readable), places, heads, gaps)
