"""The cursor: a subscriber's position in the log, as opaque text.

Version 1 is `1<names>.<time>.<position>…`:

    names     base64url without padding of, for each partition in the order of the names:
              1 byte the name's length, the name (ASCII), 6 bytes the epoch (big-endian)
    time      hex: the oldest append time (ms since 1970) among the last records, 0 if unknown
    position  one per partition, in the same order: hex offset, `-`, check of the record there ("" if unknown)

It consists of characters that need no escaping in a query string, a header and an SSE `id` field. The parts that
change with each record are plain hex at the end, because every frame carries a cursor.
"""

import base64
import binascii
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Self

import msgspec

MAX_LENGTH = 4_096  # characters; a longer text is refused before it is decoded
MAX_OFFSET = 2**53 - 1  # the largest integer that Lua, JavaScript and Postgres all count exactly
_VERSION = "1"
_TEXT = re.compile(r"1([A-Za-z0-9_-]*)\.([0-9a-f]{1,12})((?:\.[0-9a-f]{1,14}-(?:[0-9a-f]{8})?)*)")
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,160}", re.ASCII)


class Position(NamedTuple):
    """A position in one partition: that of the last record read, offset 0 before the first.

    `check` (8 hex digits, "" if unknown) is a hash over the ids of all records up to this one. A store that fell back
    to an older state assigns the same offsets to other records, so their checks differ. `time` is the record's append
    time in ms, 0 if unknown.
    """

    epoch: int
    offset: int
    check: str = ""
    time: int = 0


class Cursor(msgspec.Struct, frozen=True):
    """The position of the last record in each partition that the subscriber reads."""

    positions: Mapping[str, Position]

    @property
    def time(self) -> int:
        """The oldest time among the positions, in ms; 0 if one is unknown."""
        return min((position.time for position in self.positions.values()), default=0)

    def encode(self, time: int | None = None) -> str:
        """Return the text form, at most `MAX_LENGTH` characters for the partitions that Settings allows.

        `time` replaces the oldest time: with 0, a reader starts partitions that are missing here at their head.
        """
        return encode(self.positions, self.time if time is None else time)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the cursor of a text, None if it is not one; the caller then announces a gap."""
        match = _TEXT.fullmatch(text) if len(text) <= MAX_LENGTH else None
        if match is None:
            return None
        names, time, positions = match.groups()
        try:
            partitions = _unpack(base64.urlsafe_b64decode(names + "=="))  # excess padding is ignored
        except (binascii.Error, IndexError, ValueError):
            return None
        offsets = [position.split("-") for position in positions.split(".")[1:]]
        if len(offsets) != len(partitions) or any(int(offset, 16) > MAX_OFFSET for offset, _ in offsets):
            return None
        return cls(
            {
                name: Position(epoch, int(offset, 16), check, int(time, 16))
                for (name, epoch), (offset, check) in zip(partitions.items(), offsets, strict=True)
            }
        )


def encode(positions: Mapping[str, Position], time: int) -> str:
    """Return the text form of `positions`; `time` (ms) is where a reader starts the partitions that are missing."""
    ordered = sorted(positions.items())
    names = _names(tuple((name, position.epoch) for name, position in ordered))
    offsets = "".join(f".{position.offset:x}-{position.check}" for _, position in ordered)
    return f"{names}.{time:x}{offsets}"


def encode_one(name: str, position: Position) -> str:
    """Return the text form of a cursor with one partition: the usual case, made for every frame."""
    epoch, offset, check, time = position
    return f"{names_one(name, epoch)}.{time:x}.{offset:x}-{check}"


@functools.lru_cache(maxsize=256)
def names_one(name: str, epoch: int) -> str:
    """Return the part up to the first dot, which all cursors of a single partition share."""
    return _names(((name, epoch),))


@functools.lru_cache(maxsize=256)  # the same for all records of an epoch
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
    """Where a subscriber starts: after `cursor` if there is one, else at `since` (a time in ms since 1970)."""

    cursor: str | None = None
    since: Literal["now", "earliest"] | int = "now"

    def names_more_than(self, partitions: Sequence[str]) -> bool:
        """Whether the cursor names a partition that is not among these."""
        cursor = None if self.cursor is None else Cursor.parse(self.cursor)
        return cursor is not None and not cursor.positions.keys() <= set(partitions)
