"""The tail of a cluster: for each node that owns followed partitions, a doorbell and a connection that reads.

A cluster refuses one XREAD of streams in several slots, even on one node, so no read can block for all of them. Instead
each append rings: it publishes the partition on a sharded channel, which stays within the partition's node. A ring is
only a reason to read, and may be lost, doubled or late: a partition is also read when its subscription is confirmed,
and all of them every `POLL` seconds.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Cursor
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.counters import RECONNECTS
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports.base import Handler
from tidewire.transports.errors import CommandError, StoreError
from tidewire.transports.log_base import stop
from tidewire.transports.log_follower import UNKNOWN_FAILURE, FollowingTail, TailPageSize, control_first
from tidewire.transports.redis.address import Command
from tidewire.transports.redis.cluster_nodes import ClusterNodes, Node
from tidewire.transports.redis.connection import Connection
from tidewire.transports.redis.layout import Layout, parse_entries
from tidewire.transports.redis.pool import TIMEOUT

log = logging.getLogger(__name__)
warnings = ThrottledLog(log)

POLL = 15.0  # seconds between two reads of all partitions of a node, if nothing rings
UNHEARD_POLL = 0.5  # … if a node has no sharded channels: Redis before 7, or a user without the right to subscribe
CHECK_HEADS = 60.0  # seconds between two checks that the log still holds the tail's positions
SETTLE = 0.002
"""Seconds from a ring to the read. An append rings once per millisecond and partition: a read in the same millisecond
may be before another append, which does not ring. The second millisecond is for timers that fire early."""
BATCH = 16  # partitions of one read: each may fill a page

ReadHeads = Callable[[Sequence[str]], Awaitable[Cursor]]


class ClusterTail(FollowingTail):
    """Assigns each followed partition to the reader of the node that owns it."""

    def __init__(self, nodes: ClusterNodes, layout: Layout, read_heads: ReadHeads, handler: Handler) -> None:
        super().__init__(handler)
        self.nodes = nodes
        self.layout = layout
        self.read_heads = read_heads
        self._readers: dict[Node, tuple[NodeReader, asyncio.Task[None]]] = {}
        self._new: set[str] = set()  # followed since the last assignment
        self._is_outdated = False  # the nodes are discovered again before the next assignment
        self._changed = asyncio.Event()

    @property
    def readers(self) -> Sequence["NodeReader"]:
        """The readers, one per node that owns a followed partition."""
        return tuple(reader for reader, _ in self._readers.values())

    @property
    def advice(self) -> str | None:
        """What is wrong if a node has no doorbell; see `Advising`."""
        return next((_UNHEARD for reader in self.readers if reader.is_unheard), None)

    async def verify(self) -> None:
        """Compare the tail's positions with heads read over new connections; see `Verifying`."""
        self.nodes.evict()
        await self.nodes.refresh()
        await self.follower.verify(self.read_heads)
        for reader in self.readers:
            reader.reconnect()

    def reassign(self) -> None:
        """Note that a partition may have another owner."""
        self._changed.set()

    def rediscover(self) -> None:
        """Discover the nodes again, then reassign."""
        self._is_outdated = True
        self._changed.set()

    def reconnect(self, node: str) -> None:
        """Close the connections to a node: others as old are lost."""
        for reader in self.readers:
            if reader.node.name == node:
                reader.reconnect()

    def update(self) -> None:
        """Note that a reader has begun or stopped to read."""
        stopped = [reader for reader in self.readers if not reader.running]
        assigned = set[str]().union(*(reader.partitions for reader in self.readers))
        self.running = not stopped and assigned >= self.follower.positions.keys()
        self.failure = next((reader.failure for reader in stopped if reader.failure is not None), self.failure)

    def unfollow(self, partitions: Sequence[str]) -> None:
        """Stop reading these partitions."""
        super().unfollow(partitions)
        self._changed.set()

    async def run(self) -> None:
        """Assign partitions to nodes until cancelled."""
        backoff = Backoff(base=0.05, cap=1.0)
        try:
            while True:
                await self.follower.wait_for_partitions()
                self._changed.clear()
                try:
                    if self._is_outdated or not self.nodes.is_known:
                        self._is_outdated = False
                        await self.nodes.refresh()
                    is_assigned = await self._assign()
                except TransportUnavailable as error:
                    is_assigned, self.failure = False, error.detail
                    warnings.warn(f"tail lost, discovering the cluster again: {error.detail}")
                except Exception:  # noqa: BLE001 - `exception` logs it
                    is_assigned, self.failure = False, UNKNOWN_FAILURE
                    warnings.exception("tail failed, discovering the cluster again")
                if is_assigned:
                    backoff.reset()
                    await self._changed.wait()
                else:  # no node owns the slots: until another one takes them
                    self._is_outdated = True
                    await asyncio.sleep(backoff.next())
        finally:
            self.running = False
            for _, task in self._readers.values():
                await stop(task)

    async def _assign(self) -> bool:
        """Give each reader its partitions; return whether every partition has an owner."""
        owned: dict[Node, set[str]] = {}
        complete = True
        for name in self.follower.positions:
            node = self.nodes.owner(self.layout.stream(name))
            if node is None:
                complete = False
            else:
                owned.setdefault(node, set()).add(name)
        for node in [node for node in self._readers if node not in owned]:
            await stop(self._readers.pop(node)[1])
        for node, names in owned.items():
            if node not in self._readers:
                reader = NodeReader(self, node)
                self._readers[node] = reader, asyncio.create_task(reader.run())
            self._readers[node][0].assign(names, self._new & names)
            self._new -= names
        self.update()
        return complete

    def _on_followed(self, partitions: Iterable[str]) -> None:
        self._new.update(partitions)
        self._changed.set()


class NodeReader:
    """Reads the followed partitions that one node owns, each after a ring."""

    def __init__(self, tail: ClusterTail, node: Node) -> None:
        self.node = node
        self.partitions: set[str] = set()
        self.running = False
        self.failure: str | None = None
        self.is_unheard = False  # the node refuses subscriptions
        self._tail = tail
        self._due: dict[str, None] = {}  # partitions to read
        self._rang_at: dict[str, float] = {}  # on the loop's clock
        self._wake = asyncio.Event()
        self._page_size = TailPageSize()
        self._connection: Connection | None = None
        self._listener: Connection | None = None  # once it listens
        self._channels: dict[bytes, str] = {}  # subscribed, or a subscription is on its way
        self._leaving: Counter[bytes] = Counter()  # SUNSUBSCRIBEs on their way: the node confirms each
        self._lost: StoreError | None = None

    def assign(self, partitions: set[str], new: set[str]) -> None:
        """Read these partitions from now on, and no others; the new ones at once, even if they were read before."""
        self._ring(*(partitions - self.partitions), *new)
        self.partitions = partitions
        for name in self._rang_at.keys() - partitions:
            del self._rang_at[name]
        self._subscribe()

    def reconnect(self) -> None:
        """Close both connections."""
        for connection in (self._connection, self._listener):
            if connection is not None:
                connection.close()

    async def run(self) -> None:
        """Read until cancelled; a failure of any kind is logged and followed by another try."""
        backoff = Backoff()
        while True:
            try:
                await self._run(backoff)
            except StoreError as error:
                self.failure = f"a node of the cluster: {error}"
                warnings.warn(f"tail of the node {self.node.name} lost, reconnecting: {type(error).__name__}: {error}")
            except TransportUnavailable as error:
                self.failure = error.detail
                warnings.warn(f"tail of the node {self.node.name} lost, reconnecting: {error.detail}")
            except Exception:  # noqa: BLE001 - `exception` logs it
                self.failure = UNKNOWN_FAILURE
                warnings.exception(f"tail of the node {self.node.name} failed, reconnecting")
            finally:
                self.running = False
                self.reconnect()
                self._connection = self._listener = self._lost = None
                self._channels.clear()
                self._rang_at.clear()
                self._leaving.clear()
                self._tail.update()
            RECONNECTS.add()
            self._tail.rediscover()  # another node may own the slots now
            await asyncio.sleep(backoff.next())

    async def _run(self, backoff: Backoff) -> None:
        clock = asyncio.get_running_loop().time
        self._connection = connection = Connection(self.node.address)
        listener = Connection(self.node.address)
        try:
            await asyncio.gather(connection.connect(TIMEOUT), listener.connect(TIMEOUT))
        except BaseException:
            listener.close()
            raise
        listener.listen(self._on_reply, lambda error: self._on_lost(listener, error))
        self._listener = listener
        self._due.clear()
        self.is_unheard = False
        self._subscribe()
        await self._tail.follower.verify(self._tail.read_heads, self.partitions)
        check_at = clock() + CHECK_HEADS
        while True:
            if not await self._is_woken():
                self._due.update(dict.fromkeys(self.partitions))
            if self._lost is not None:
                raise self._lost
            while self._due:
                await asyncio.sleep(SETTLE)
                await self._read(connection)
                if not self.running:
                    self.running = True
                    self.node.breaker.close()  # other calls need not wait for its probe
                    self._tail.update()
                    backoff.reset()
            if clock() >= check_at:
                self._subscribe_again()
                await self._tail.follower.verify(self._tail.read_heads, self.partitions)
                check_at = clock() + CHECK_HEADS

    async def _is_woken(self) -> bool:
        """Wait for a ring; False if none came in time."""
        try:
            async with asyncio.timeout(UNHEARD_POLL if self.is_unheard else POLL):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    async def _read(self, connection: Connection) -> None:
        """Read the next partitions that are due, once."""
        positions = self._tail.follower.positions
        names = control_first(name for name in list(self._due)[:BATCH] if name in self.partitions and name in positions)
        settled = asyncio.get_running_loop().time() - SETTLE
        for name in list(self._due)[:BATCH]:
            if self._rang_at.get(name, 0.0) <= settled or name not in names:
                del self._due[name]  # else it rang during the wait, and is read once more
        if not names:
            return
        count = max(1, self._page_size.records // len(names))
        commands: list[Command] = [
            ["XREAD", "COUNT", count, "STREAMS", self._tail.layout.stream(name), f"{at.epoch}-{at.offset}"]
            for name, at in ((name, positions[name]) for name in names)
        ]
        replies = await connection.call(commands, TIMEOUT)
        for index, reply in enumerate(replies):
            if isinstance(reply, CommandError) and reply.code in ("MOVED", "ASK"):
                # The slot is being moved: its new owner answers, and `nodes` learns who that is.
                (replies[index],) = await self._tail.nodes.send([commands[index]])
            if isinstance(replies[index], CommandError | TransportUnavailable):
                raise replies[index]
        sizes: list[int] = []
        for name, reply in zip(names, replies, strict=True):
            entries = reply[0][1] if reply else ()
            if not entries:
                continue
            sizes += [len(fields[1]) for _, fields in entries]
            if len(entries) >= count:
                self._due[name] = None
            self._tail.follower.deliver(name, parse_entries(name, entries))
            epoch, _, offset = entries[-1][0].partition(b"-")
            self._tail.follower.skip_unreadable(name, int(epoch), int(offset))
        self._page_size.adjust(sizes, full=bool(self._due))
        self._tail.follower.mark_read(names)

    def _subscribe(self) -> None:
        """Bring the subscriptions in line with the partitions."""
        listener = self._listener
        if listener is None:
            return
        wanted = {self._tail.layout.bell(name).encode(): name for name in self.partitions}
        if self.is_unheard:
            self._ring(*(name for channel, name in wanted.items() if channel not in self._channels))
            self._channels = wanted
            return
        gone = self._channels.keys() - wanted.keys()
        new = wanted.keys() - self._channels.keys()
        for channel in gone:
            del self._channels[channel]
            self._leaving[channel] += 1
        self._channels |= {channel: wanted[channel] for channel in new}
        # One command each: a command's channels must share a slot.
        listener.write(
            [*(("SUNSUBSCRIBE", channel) for channel in gone), *(("SSUBSCRIBE", channel) for channel in new)]
        )

    def _subscribe_again(self) -> None:
        """Try again to subscribe on a node that refused it: its operator may have granted the right."""
        if self.is_unheard:
            self.is_unheard = False
            self._channels.clear()
            self._subscribe()

    def _ring(self, *partitions: str) -> None:
        if partitions:
            self._due.update(dict.fromkeys(partitions))
            self._rang_at.update(dict.fromkeys(partitions, asyncio.get_running_loop().time()))
            self._wake.set()

    def _on_reply(self, reply: Any) -> None:
        if isinstance(reply, CommandError):
            if reply.code == "MOVED":  # of a subscription: its slot has another owner
                self._channels.clear()
                self._tail.rediscover()
            elif reply.code not in ("NOPERM", "ERR"):  # CLUSTERDOWN, LOADING …: it passes
                self._lost = reply
                self._wake.set()
            elif not self.is_unheard:
                self.is_unheard = True
                warnings.warn(f"the node {self.node.name} refuses SSUBSCRIBE ({reply.code}): {_UNHEARD}")
                self._ring(*self.partitions)
            return
        kind, channel = reply[0], reply[1]
        if kind == b"sunsubscribe" and self._leaving[channel]:
            self._leaving[channel] -= 1
            return
        name = self._channels.get(channel)
        if name is None:
            return
        if kind == b"sunsubscribe":  # by the node: the slot has moved
            del self._channels[channel]
            self._tail.rediscover()
        self._ring(name)  # also when a subscription is confirmed: rings before it were not heard

    def _on_lost(self, listener: Connection, error: StoreError) -> None:
        if listener is self._listener:  # else it was closed together with the other one, and is replaced
            self._lost = error
            self._wake.set()


_UNHEARD = (
    "events arrive up to half a second late, because the cluster has no sharded channels for this user: use Redis 7 or"
    " newer, and permit its ACL user +ssubscribe, +spublish and the channels of the prefix"
)
