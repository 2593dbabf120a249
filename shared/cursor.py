"""The cursor: a subscriber's place in the log, as opaque text.

Layout, version 1: the character `1`, then base64url without padding of

    6 bytes   oldest time (ms since 1970) among the records last seen, 0 where unknown
    then for each partition, in order of name:
    1 byte    length of the name         n bytes   the name, ASCII
    6 bytes   epoch
    1 byte    length of the offset       n bytes   the offset
    4 bytes   check of the record at that offset, 0 where unknown

base64url, because a cursor travels in a query string, a header and an SSE `id` field, and must pass through all
three unescaped. Numbers are big-endian.
"""

import base64
import binascii
import functools
import re
from collections.abc import Mapping
from typing import NamedTuple, Self

import msgspec

MAX_LENGTH = 4_096  # characters; more is refused before it is decoded
MAX_OFFSET = 2**53 - 1  # what Lua, JavaScript and Postgres can all count exactly
_VERSION = "1"
_TEXT = re.compile(r"1[A-Za-z0-9_-]{8,}")
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
        if len(text) > MAX_LENGTH or not _TEXT.fullmatch(text):
            return None
        try:
            raw = base64.b64decode(text[1:] + "=" * (-len(text[1:]) % 4), altchars=b"-_", validate=True)
            return cls(_unpack(raw))
        except (binascii.Error, IndexError, UnicodeDecodeError, ValueError):
            return None


def encode(positions: Mapping[str, Position], time: int) -> str:
    """Return the text form of `positions`; `time` is the oldest time (ms) to start a partition from that it lacks."""
    parts = [time.to_bytes(6, "big")]
    for name in sorted(positions) if len(positions) > 1 else positions:
        epoch, offset, check, _ = positions[name]
        size = (offset.bit_length() + 7) >> 3
        parts += (
            _name_and_epoch(name, epoch),
            size.to_bytes(1, "big"),
            offset.to_bytes(size, "big"),
            binascii.unhexlify(check or b"00000000"),
        )
    return _VERSION + binascii.b2a_base64(b"".join(parts), newline=False).translate(_URL_SAFE, b"=").decode()


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


@functools.lru_cache(maxsize=64)
def _name_and_epoch(name: str, epoch: int) -> bytes:
    return bytes((len(name),)) + name.encode() + epoch.to_bytes(6, "big")


def _unpack(raw: bytes) -> dict[str, Position]:
    time = int.from_bytes(raw[:6], "big")
    positions: dict[str, Position] = {}
    at = 6
    while at < len(raw):
        start, at = at + 1, at + 1 + raw[at]
        name = raw[start:at].decode("ascii")
        epoch, at = int.from_bytes(raw[at : at + 6], "big"), at + 6
        start, at = at + 1, at + 1 + raw[at]
        offset = int.from_bytes(raw[start:at], "big")
        check, at = raw[at : at + 4].hex(), at + 4
        if at > len(raw) or offset > MAX_OFFSET or not _NAME.fullmatch(name) or name in positions:
            raise ValueError("not a cursor")
        positions[name] = Position(epoch, offset, "" if check == "00000000" else check, time)
    return positions
