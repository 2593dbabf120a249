"""The keys and scripts of the log in Redis, for commands over TCP (`RedisStreams`) and over REST (`UpstashRest`).

Keys of the partition `all` under the prefix `rt`, all in one cluster slot:

    rt:all              the stream; an entry's id is <epoch>-<offset>, its field `e` holds check, time and event
    {rt:all}:meta       the counter: epoch, seq, check, time; the marks of clocks that jumped; when the doorbell rang
    {rt:all}:id:<scope> the position of the event with this scope; expires with the idempotency window
    {rt}:rate:<bucket>  the level of a publish key's token bucket; expires when it is full again
    {rt}:health         never exists; see `write_check`
    {rt:all}:fence      in a cluster: the registry's check that an append must name (`cluster.py`)

The partition `realtime.schemes` has the same keys as any other, and each append reads its counter.

Each append rings the doorbell for readers that cannot block: it publishes the partition on the channel `rt:=bell` (no
partition's name has a `=`), or in a cluster, whose messages reach every node, on the shard channel `{rt:all}:bell`.
"""

import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Position
from tidewire.model.partition_schemes import Registry, read_announcement
from tidewire.model.partitions import SCHEMES
from tidewire.model.record import Record, pack, unpack
from tidewire.model.record_page import RecordPage
from tidewire.transports.appending import FOREVER, Answer, Part, Placed
from tidewire.transports.base import Retention
from tidewire.transports.errors import CommandError

logger = logging.getLogger(__name__)

Arguments = list[str | bytes | int]

Call = tuple[list[str], Arguments]
"""Keys and arguments of one call of a script."""

Send = Callable[[Sequence[Arguments]], Awaitable[list[Any]]]
"""Commands → their replies, in one round trip; a reply may be a CommandError."""


OWN_RING = "="
"""The message by which a reader rings for itself, to prove that rings arrive; no partition's name."""


class Script(msgspec.Struct, frozen=True):
    """A Lua script, and the hash by which Redis caches it."""

    text: str
    sha: str

    @classmethod
    def load(cls, name: str) -> "Script":
        """Read a script from `lua/`."""
        text = (Path(__file__).parent / "lua" / f"{name}.lua").read_text()
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    def by_sha(self, keys: Sequence[str], arguments: Arguments) -> Arguments:
        """Return the command that runs a script from the server's cache."""
        return ["EVALSHA", self.sha, len(keys), *keys, *arguments]

    def in_full(self, keys: Sequence[str], arguments: Arguments) -> Arguments:
        """Return the command that sends the script along, which also caches it."""
        return ["EVAL", self.text, len(keys), *keys, *arguments]

    async def run(self, calls: Sequence[Call], send: Send) -> list[Any]:
        """Return the reply of each call, all in one round trip; the script's text is sent only if it is not cached.

        Replies are raw: that of a refused call is a CommandError.
        """
        replies = await send([self.by_sha(*call) for call in calls])
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, CommandError) and reply.code == "NOSCRIPT"]
        if unknown:  # a restarted server has an empty cache
            for i, reply in zip(unknown, await send([self.in_full(*calls[i]) for i in unknown]), strict=True):
                replies[i] = reply
        return replies


APPEND = Script.load("append")
PUBLISH = Script.load("publish")
RANGE = Script.load("range")
SEEK = Script.load("seek")
TAKE = Script.load("take")


def take_call(prefix: str, bucket: str, cost: int, capacity: int, seconds: float) -> Call:
    """Return the keys and arguments of `TAKE`."""
    return [f"{{{prefix}}}:rate:{bucket}"], [cost, capacity, round(seconds * 1000)]


def publish_call(prefix: str, messages: Sequence[tuple[str, bytes]]) -> Call:
    """Return the keys and arguments of `PUBLISH` for (channel, message) pairs."""
    return [f"{{{prefix}}}:health"], [part for message in messages for part in message]


def write_check(prefix: str) -> Arguments:
    """Return a command that Redis refuses whenever it would refuse an append, and that changes nothing.

    SET is refused by a replica, without memory, while writes are stopped and without the permission; PING is not. With
    XX it sets nothing, since the key never exists.
    """
    return ["SET", f"{{{prefix}}}:health", "1", "XX"]


class Layout:
    """The keys of one prefix, and the arguments and replies of the scripts; `sharded` is a Redis Cluster."""

    def __init__(self, prefix: str, retention: Retention, *, sharded: bool = False) -> None:
        self.prefix = prefix
        self._sharded = sharded
        self._limits = _limits(retention)
        self._forever = _limits(FOREVER)

    def stream(self, partition: str) -> str:
        """Return the key of a partition's stream."""
        return f"{self.prefix}:{partition}"

    def keys(self, partition: str) -> list[str]:
        """Return the keys of a partition's stream and counter.

        {…} is the cluster hash tag: its text is the stream's whole key, so both share one slot.
        """
        stream = self.stream(partition)
        return [stream, f"{{{stream}}}:meta"]

    def bell(self, partition: str) -> str:
        """Return the channel on which an append to this partition rings; its message is the partition."""
        return f"{{{self.stream(partition)}}}:bell" if self._sharded else f"{self.prefix}:=bell"

    def append(self, expected: str, parts: Sequence[Part]) -> "AppendCalls":
        """Return the calls of `APPEND` for these parts, one per partition; see `Append`."""
        batches: dict[str, list[tuple[int, Part]]] = {}
        for index, part in enumerate(parts):
            batches.setdefault(part.partition, []).append((index, part))
        calls = []
        for partition, batch in batches.items():
            keys, arguments = self._append_nothing(partition, expected)
            for _, part in batch:
                keys.append(self.id(partition, part.scope))
                for other, scope in part.others:
                    keys += (self.id(other, scope), self.keys(other)[1])
                arguments += (part.event.chained, pack(part.event), len(part.others))
            calls.append((keys, arguments))
        return AppendCalls(len(parts), list(batches.values()), calls)

    def read_registry(self) -> Call:
        """Return a call of `APPEND` that appends nothing: no registry has this check, so it returns the registry."""
        return self._append_nothing(SCHEMES, "?")

    def id(self, partition: str, scope: str) -> str:
        """Return the key of an event's idempotency key in a partition."""
        return f"{{{self.stream(partition)}}}:id:{scope}"

    def fence(self, partition: str) -> str:
        """Return the key of a partition's fence, its own copy of the registry's check in a cluster."""
        return f"{{{self.stream(partition)}}}:fence"

    def _append_nothing(self, partition: str, expected: str) -> Call:
        keys = self.keys(partition)
        if self._sharded and partition != SCHEMES:
            keys += (f"{{{self.stream(partition)}}}:none", self.fence(partition))
        else:
            keys += self.keys(SCHEMES)
        limits = self._forever if partition == SCHEMES else self._limits
        return keys, [*limits, expected, self.bell(partition), "SPUBLISH" if self._sharded else "PUBLISH"]


def _limits(retention: Retention) -> Arguments:
    return [int(retention.age * 1000), retention.events, int(retention.idempotency_window * 1000)]


class AppendCalls(msgspec.Struct, frozen=True):
    """The parts of each partition, with their indexes among all parts, and its call."""

    count: int
    batches: list[list[tuple[int, Part]]]
    calls: list[Call]

    def answers(self, replies: Sequence[Any]) -> tuple[list[Answer], Registry | None]:
        """Return the result of `Append` from the replies to `calls`; a lost one is a TransportUnavailable."""
        answers: list[Answer] = [None] * self.count
        registry = None
        for batch, reply in zip(self.batches, replies, strict=True):
            if isinstance(reply, TransportUnavailable):
                for index, _ in batch:
                    answers[index] = reply
                continue
            if is_outdated(reply):
                registry = parse_registry(reply)
                continue
            for (index, part), answer in zip(batch, reply, strict=True):
                if _text(answer[0]) == "known":
                    found = zip(part.others, answer[1:], strict=True)
                    answers[index] = {other: parse_position(position) for other, position in found if position}
                else:
                    answers[index] = Placed(parse_position(answer), int(answer[4]) == 1)
        return answers, registry


def _text(value: Any) -> Any:
    """Return a text, which is bytes over TCP, as over REST, a str; anything else is returned as it is."""
    return value.decode() if isinstance(value, bytes) else value


def is_outdated(reply: Sequence[Any]) -> bool:
    """Return whether `APPEND` refused a call because its writer does not know the registry's last announcement."""
    return bool(reply) and _text(reply[0]) == "schemes"


def parse_registry(reply: Sequence[Any]) -> Registry:
    """Return the registry in such a reply; in a cluster, the fence of a partition in place of its check."""
    entries = [(_bytes(id), [_bytes(field) for field in fields]) for id, fields in reply[2]]
    records = parse_entries(SCHEMES, entries)
    announced = [(read_announcement(event), position) for event, _, position in records]
    return Registry(_text(reply[1]) or "", [(one, at.time) for one, at in announced if one and at])


def _bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value


def parse_position(answer: Sequence[bytes | str]) -> Position:
    """Return the position in a script's reply: epoch, offset, check, time."""
    epoch, offset, check, time = answer[:4]
    return Position(int(epoch), int(offset), check.decode() if isinstance(check, bytes) else check, int(time))


def parse_entries(partition: str, entries: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[Record]:
    """Return the records of raw stream entries; an unreadable entry is left out, which makes it a gap."""
    records = []
    for entry_id, fields in entries:
        epoch, _, offset = entry_id.partition(b"-")
        value = fields[1]
        try:
            position = Position(int(epoch), int(offset), value[:8].decode(), int(value[8:21]))
            records.append(Record(unpack(value[21:]), partition, position))
        except ValueError:
            logger.error("partition %s: the entry %s is not a record", partition, entry_id.decode())  # noqa: TRY400 — the exception may quote event data
    return records


def parse_page(partition: str, entries: Sequence[tuple[bytes, Sequence[bytes]]]) -> Sequence[Record]:
    """Return the records of raw stream entries; contiguous ones are decoded one by one when accessed."""
    if entries:
        epoch, _, first = entries[0][0].partition(b"-")
        last_epoch, _, last = entries[-1][0].partition(b"-")
        # Redis replies in order and without repetition: as many entries as offsets from first to last are all of them.
        if epoch == last_epoch and int(last) - int(first) == len(entries) - 1:
            values = [fields[1] for _, fields in entries]
            stored = RecordPage.parse(partition, int(epoch), int(first), values)
            if stored is not None:
                return stored
    return parse_entries(partition, entries)
