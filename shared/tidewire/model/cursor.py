"""The cursor: a subscriber's place in the log, as opaque text.

Version 1 is `1<names>.<time>.<place>…`:

    names   base64url without padding of, for each partition in order of name:
            1 byte the name's length, the name (ASCII), 6 bytes the epoch (big-endian)
    time    hex: the oldest append time (ms since 1970) among the records last seen, 0 where unknown
    place   one a partition, in the same order: hex offset, `-`, check of the record there ("" where unknown)

Only characters that pass unescaped through a query string, a header and an SSE `id` field. What changes with each
record is plain hex at the end, because a cursor is made for every frame that is written.
"""

import base64
import binascii
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Self

import msgspec

MAX_LENGTH = 4_096  # characters; more is refused before it is decoded
MAX_OFFSET = 2**53 - 1  # what Lua, JavaScript and Postgres can all count exactly
_VERSION = "1"
_TEXT = re.compile(r"1([A-Za-z0-9_-]*)\.([0-9a-f]{1,12})((?:\.[0-9a-f]{1,14}-(?:[0-9a-f]{8})?)*)")
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,160}", re.ASCII)


class Position(NamedTuple):
    """A place in one partition: the last record seen there, offset 0 before the first.

    `check` (8 hex digits, "" where unknown) is a hash over the ids of all records up to this one. A store that
    fell back to an older state counts the same numbers again, but not over the same records: the check differs.
    `time` is the record's append time in ms, 0 where unknown.
    """

    epoch: int
    offset: int
    check: str = ""
    time: int = 0


class Cursor(msgspec.Struct, frozen=True):
    """The last-seen position of each partition that its subscriber reads."""

    positions: Mapping[str, Position]

    @property
    def time(self) -> int:
        """The oldest time among the positions, in ms; 0 where one is unknown."""
        return min((position.time for position in self.positions.values()), default=0)

    def encode(self, time: int | None = None) -> str:
        """Return the text form, at most `MAX_LENGTH` characters for the partitions that Settings allows.

        `time` other than the oldest: 0 makes a reader start partitions that are not named at their head.
        """
        return encode(self.positions, self.time if time is None else time)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read the text form; None where it is not a cursor of ours: a gap at the caller, never an exception."""
        match = _TEXT.fullmatch(text) if len(text) <= MAX_LENGTH else None
        if match is None:
            return None
        names, time, places = match.groups()
        try:
            partitions = _unpack(base64.b64decode(names + "=" * (-len(names) % 4), altchars=b"-_", validate=True))
        except (binascii.Error, IndexError, ValueError):
            return None
        offsets = [place.split("-") for place in places.split(".")[1:]]
        if len(offsets) != len(partitions) or any(int(offset, 16) > MAX_OFFSET for offset, _ in offsets):
            return None
        return cls(
            {
                name: Position(epoch, int(offset, 16), check, int(time, 16))
                for (name, epoch), (offset, check) in zip(partitions.items(), offsets, strict=True)
            }
        )


def encode(positions: Mapping[str, Position], time: int) -> str:
    """Return the text form of `positions`; `time` is the oldest time (ms) to start a partition from that it lacks."""
    ordered = sorted(positions.items())
    names = _names(tuple((name, position.epoch) for name, position in ordered))
    places = "".join(f".{position.offset:x}-{position.check}" for _, position in ordered)
    return f"{names}.{time:x}{places}"


def encode_one(name: str, position: Position) -> str:
    """Return the text form of a single partition's position: the usual case, made for every frame."""
    epoch, offset, check, time = position
    return f"{names_one(name, epoch)}.{time:x}.{offset:x}-{check}"


@functools.lru_cache(maxsize=256)
def names_one(name: str, epoch: int) -> str:
    """Return what all cursors of a single partition begin with, up to the first dot."""
    return _names(((name, epoch),))


@functools.lru_cache(maxsize=256)  # what does not change from one record to the next
def _names(partitions: tuple[tuple[str, int], ...]) -> str:
    packed = b"".join(
        len(name).to_bytes(1, "big") + name.encode() + epoch.to_bytes(6, "big") for name, epoch in partitions
    )
    return _VERSION + base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def _unpack(packed: bytes) -> dict[str, int]:
    partitions: dict[str, int] = {}
    at = 0
    while at < len(packed):
        start, at = at + 1, at + 1 + packed[at]
        name = packed[start:at].decode("ascii")
        start, at = at, at + 6
        if at > len(packed) or not _NAME.fullmatch(name) or name in partitions:
            raise ValueError("not a cursor")
        partitions[name] = int.from_bytes(packed[start:at], "big")
    return partitions


class Start(msgspec.Struct, frozen=True):
    """Where a subscriber begins: after `cursor` where there is one, else at `since` (a time in ms since 1970)."""

    cursor: str | None = None
    since: Literal["now", "earliest"] | int = "now"

    def names_more_than(self, partitions: Sequence[str]) -> bool:
        """Tell whether the cursor names a partition besides these."""
        cursor = None if self.cursor is None else Cursor.parse(self.cursor)
        return cursor is not None and not cursor.positions.keys() <= set(partitions)
