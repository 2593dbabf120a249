"""Revocations of tokens: every instance reads them from the log, and its hub ends the streams of revoked tokens.

A revocation is an event in a control partition. Each hub of a deployment with authentication reads that partition from
its oldest record on; `on_revoked` then closes the streams of the tokens that it names.
"""

import logging
import time
from collections.abc import Callable

import msgspec

from tidewire.delivery.control_partitions import ControlPartition
from tidewire.errors import Unauthorized
from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event, new_id
from tidewire.model.permissions import REVOCATIONS
from tidewire.model.record import Gap, Record
from tidewire.transports.base import Log, Transport

logger = logging.getLogger(__name__)


class Revocation(msgspec.Struct, frozen=True, rename="camel"):
    """A user's tokens that were issued before a time (s since 1970) are no longer valid."""

    user_id: str
    before: float

    def event(self) -> Event:
        """Return the event that announces it to every instance."""
        return Event(new_id(), REVOCATIONS, msgspec.json.encode(self))


_decoder = msgspec.json.Decoder(Revocation)


class Revocations(ControlPartition):
    """The revocations that this process knows, each kept for as long as the log keeps it."""

    def __init__(self, transport: Transport, keep: float) -> None:
        """`keep` is in seconds."""
        super().__init__(transport, REVOCATIONS)
        self.on_revoked: Callable[[Revocation], None] = lambda _: None
        self._keep = keep
        self._before: dict[str, float] = {}  # by user; the one that was read first is first
        self._since = time.time() - time.monotonic()  # so that a wall clock that jumps does not expire them

    def __len__(self) -> int:
        return len(self._before)

    def check(self, user_id: str | None, issued_at: float) -> None:
        """Raise Unauthorized if a token of this user, issued at this time (s since 1970), was revoked."""
        if user_id is not None and issued_at < self._before.get(user_id, issued_at):
            raise Unauthorized("The token was revoked")

    def on_item(self, item: Record | Gap) -> bool:
        """Take an item of the tail; False if revocations are missing before it, and all must be read again."""
        if isinstance(item, Gap):
            self._at, self._until = None, item.position
            return self._log is None
        self._take(item)
        if self._until is None and item.position is not None:
            self._at = item.position
        return True

    async def _read(self, log: Log, after: Position | None, until: Position) -> None:
        if after is None:
            if not until.offset:
                return  # nobody was ever revoked: the usual case costs no request
            after = (await log.seek((REVOCATIONS,), None)).positions[REVOCATIONS]
        async for item in log.replay(Cursor({REVOCATIONS: after}), Cursor({REVOCATIONS: until})):
            if isinstance(item, Record):
                self._take(item)

    def _take(self, record: Record) -> None:
        try:
            revocation = _decoder.decode(record.event.data)
        except msgspec.DecodeError:
            logger.error("a record of the partition %s is not a revocation", REVOCATIONS)  # noqa: TRY400 — its data
            return
        known = self._before.pop(revocation.user_id, revocation.before)
        self._before[revocation.user_id] = max(revocation.before, known)
        self.on_revoked(revocation)
        oldest = self._since + time.monotonic() - self._keep
        while self._before and next(iter(self._before.values())) <= oldest:
            del self._before[next(iter(self._before))]
