"""A Redis Cluster that tests break: its nodes are killed and paused, its slots moved, its replicas promoted.

Methods block until every node that answers agrees on the result; a coroutine calls them with `asyncio.to_thread`.
"""

import math
import time
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Protocol, Self

from redis.crc import key_slot

from tests.support.processes import HOST, ServerError
from tests.support.redis_node import OPEN, Access, RedisNode, await_that, start_all, stop_all

SLOTS = 16_384
NODE_TIMEOUT = 1.5  # seconds without an answer, after which a node suspects another
MIGRATE_MILLISECONDS = 5_000
PROMOTION_SECONDS = 5.5  # a node gives a planned failover up after 5
PROMOTIONS = 3

Range = tuple[int, int]


class ClusterNode(RedisNode):
    """One node; its `id` stays when it is restarted, unless it comes back empty."""

    @property
    def id(self) -> str:
        return str(self.call("CLUSTER", "MYID"))

    def slots(self) -> list[tuple[Range, list[int]]]:
        """The view of this node: each range of slots, with the ports of its primary and of its replicas."""
        view = []
        for first, last, *holders in self.call("CLUSTER", "SLOTS"):
            primary, *replicas = (int(holder[1]) for holder in holders)
            view.append(((first, last), [primary, *sorted(replicas)]))
        return sorted(view)

    def state(self) -> str:
        """`ok` or `fail`, as this node sees the cluster."""
        info = str(self.call("CLUSTER", "INFO"))
        return dict(line.split(":", 1) for line in info.splitlines())["cluster_state"]


class RedisCluster:
    """`primaries` share the slots evenly; each has this many `replicas`.

    The nodes are listed with the primaries first, as they were at the start. Not durable without `aof`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        primaries: int = 3,
        replicas: int = 1,
        aof: bool = False,
        node_timeout: float = NODE_TIMEOUT,
        access: Access = OPEN,
        options: Sequence[str] = (),
        kind: str = "redis",
    ) -> None:
        settings = [
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(round(node_timeout * 1000))),
            *("--cluster-replica-validity-factor", "0"),  # a replica is promoted, however old its data
            *("--cluster-allow-replica-migration", "no"),  # it stays with its primary
            # A replica that received nothing yet is missing in CLUSTER SLOTS.
            *("--repl-ping-replica-period", "1"),
            *(("--tls-cluster", "yes") if access.certificate else ()),
            *options,
        ]
        self.nodes = [
            ClusterNode(folder, access=access, aof=aof, options=settings, kind=kind)
            for _ in range(primaries * (1 + replicas))
        ]
        self.access = access
        self._homes = [
            ((SLOTS * index // primaries, SLOTS * (index + 1) // primaries - 1), self.nodes[index])
            for index in range(primaries)
        ]
        self._vote_seconds = max(4 * node_timeout, 4.0) + 0.1
        self._elected: dict[ClusterNode, float] = {}
        self._replicates = {
            node.port: self.nodes[index % primaries] for index, node in enumerate(self.nodes[primaries:])
        }

    @property
    def url(self) -> str:
        """The address for clients, with each node as a seed."""
        return self.access.url(",".join(node.address for node in self.nodes), "+cluster")

    def start(self) -> Self:
        """Returns when each node serves its slots, and each replica has a link."""
        start_all(self.nodes)
        for epoch, node in enumerate(self.nodes, start=1):
            node.call("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for (first, last), node in self._homes:
            node.call("CLUSTER", "ADDSLOTSRANGE", first, last)
        # Each pair, for gossip takes a second a node.
        for node, other in combinations(self.nodes, 2):
            node.call("CLUSTER", "MEET", HOST, other.port, other.bus_port)
        ids = {node.port: node.id for node in self.nodes}
        await_that("all know all", lambda: all(_known(node) >= set(ids.values()) for node in self.nodes))
        for node in self.nodes:
            if (primary := self._replicates.get(node.port)) is not None:
                node.call("CLUSTER", "REPLICATE", ids[primary.port])
        self.wait_until_ok()
        self.flush()
        return self

    def stop(self) -> None:
        """End every node at once."""
        stop_all(self.nodes)

    # What is where

    @staticmethod
    def slot_of(key: str) -> int:
        return int(key_slot(key.encode()))

    def primary_of(self, key: str | int) -> ClusterNode:
        """The node that owns a key, or a slot; raises LookupError if none does."""
        slot = key if isinstance(key, int) else self.slot_of(key)
        for (first, last), (primary, *_) in self._view():
            if first <= slot <= last:
                return self._at(primary)
        raise LookupError(f"nobody owns slot {slot}")

    def primaries(self) -> list[ClusterNode]:
        """The nodes that own slots, in the order of `nodes`."""
        owning = {primary for _, (primary, *_) in self._view()}
        return [node for node in self.nodes if node.port in owning]

    def replicas_of(self, primary: ClusterNode) -> list[ClusterNode]:
        """The replicas of a node that owns slots, without those that failed."""
        ports = {port for _, (owner, *replicas) in self._view() if owner == primary.port for port in replicas}
        return [node for node in self.nodes if node.port in ports]

    def key_on(self, primary: ClusterNode, prefix: str = "key") -> str:
        """A key that this node owns."""
        owned = [slots for slots, (owner, *_) in self._view() if owner == primary.port]
        return next(
            key
            for key in (f"{prefix}-{number}" for number in range(100_000))
            if any(first <= self.slot_of(key) <= last for first, last in owned)
        )

    def is_ok(self) -> bool:
        """Whether all nodes that answer agree that each slot is served, and their replicas have links."""
        answering = [node for node in self.nodes if node.answers]
        views = [node.slots() for node in answering]
        owning = {primary for _, (primary, *_) in views[0]}
        listed = {port for _, ports in views[0] for port in ports}
        return (
            all(view == views[0] for view in views)
            and sum(last - first + 1 for (first, last), _ in views[0]) == SLOTS
            and all(self._at(port).answers for port in owning)
            and all(node.state() == "ok" for node in answering)
            and all(node.port in listed and node.is_linked() for node in answering if node.port not in owning)
        )

    def wait_until_ok(self) -> None:
        """Raises ServerError with each node's view if the nodes do not agree in time."""
        try:
            await_that("all nodes agree", self.is_ok)
        except ServerError as error:
            views = [f"{node} {node.call('CLUSTER', 'NODES')}" for node in self.nodes if node.answers]
            raise ServerError("\n".join([str(error), *views])) from None

    # Faults

    def kill(self, node: ClusterNode) -> None:
        """End a node at once, as a crash does; returns before the others know."""
        self._let_votes_expire(node)
        node.kill()

    def restart(self, node: ClusterNode) -> None:
        """Start a node again, with the place it had; returns when the cluster is whole."""
        self._elected.pop(node, None)
        node.restart()
        self.wait_until_ok()

    def pause(self, node: ClusterNode) -> None:
        """Freeze a node: its connections stay open and silent."""
        self._let_votes_expire(node)
        node.pause()

    def resume(self, node: ClusterNode) -> None:
        """Let a node run on; returns when it has learnt its place."""
        node.resume()
        self.wait_until_ok()

    def failover(self, primary: ClusterNode, how: str = "") -> ClusterNode:
        """Promote the first replica of a primary, and return it once every node that answers follows.

        `how` is empty for a planned one, which loses nothing; `FORCE` if the primary is gone, and `TAKEOVER` if most
        primaries are.
        """
        self._let_votes_expire(primary)
        replica = next(node for node in self.replicas_of(primary) if node.answers)
        self._promote(replica, how)
        self.wait_until_ok()
        return replica

    def wait_for_failover(self, primary: ClusterNode) -> ClusterNode:
        """Return the replica that the cluster itself promotes, after `kill` or `pause`."""
        others = [node for node in self._family(primary) if node.answers]
        await_that(f"a replica replaces {primary}", lambda: any(map(_is_primary, others)))
        replica = next(filter(_is_primary, others))
        self._elected[replica] = time.monotonic()
        self.wait_until_ok()
        return replica

    def _promote(self, replica: ClusterNode, how: str = "") -> None:
        # A primary votes once in two node timeouts for a replica of the same primary, and a node tries for 5 s.
        for _ in range(PROMOTIONS):
            replica.call("CLUSTER", "FAILOVER", *([how] if how else []))
            try:
                await_that(f"{replica} is promoted", partial(_is_primary, replica), PROMOTION_SECONDS)
            except ServerError:
                continue
            self._elected[replica] = time.monotonic()
            return
        raise ServerError(f"{replica} was not promoted ({how or 'planned'})\n{replica.log()}")

    def _let_votes_expire(self, primary: ClusterNode) -> None:
        """Wait until no node that may replace a primary counts the votes of its own last election again.

        A node of Redis 7.0 that was elected, demoted and is to be elected again within this time promotes itself
        without an election, and the others do not follow it.
        """
        for node in self._family(primary):
            elected = self._elected.get(node, -math.inf)
            time.sleep(max(elected + self._vote_seconds - time.monotonic(), 0))

    def begin_move(self, slot: int, to: ClusterNode) -> "Move":
        """Begin to move a slot, and move no key: between here and `Move.finish` the nodes answer ASK and TRYAGAIN."""
        return Move(self, slot, self.primary_of(slot), to)

    def move_slot(self, slot: int, to: ClusterNode) -> None:
        """Move a slot with its keys to another primary, as a resharding does."""
        if self.primary_of(slot) is not to:
            self.begin_move(slot, to).finish()

    def move_slots_at_once(self, first: int, last: int, to: ClusterNode) -> None:
        """Move a range of one primary's slots as Valkey 9 does: clients see neither ASK nor TRYAGAIN."""
        source = self.primary_of(first)
        source.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", to.id)
        await_that(f"slots {first}-{last} are at {to}", lambda: self.primary_of(last) is to)
        self.wait_until_ok()

    def flush(self) -> None:
        """Delete all keys, at the replicas too."""
        for node in self.primaries():
            copies = sum(replica.answers for replica in self.replicas_of(node))
            node.write("FLUSHALL", copies=copies)

    def tidy(self) -> None:
        """Undo what tests have done: nodes run, roles and slots are where they were at the start, no key is left."""
        for node in self.nodes:
            if not node.is_running():
                self._elected.pop(node, None)
                node.restart()
            elif not node.answers:
                node.resume()
        # First, for a node that imports a slot does not learn that a failover gave it another owner.
        for node in self.nodes:
            for slot in _open_slots(node):
                node.call("CLUSTER", "SETSLOT", slot, "STABLE")
        self.wait_until_ok()
        for _, home in self._homes:
            if home.role() != "master":
                self._let_votes_expire(next(filter(_is_primary, self._family(home))))
                self._promote(home)
        self.wait_until_ok()
        self.flush()
        for slots, (owner, *_) in self._view():
            for home_slots, home in self._homes:
                for slot in _common(slots, home_slots) if home.port != owner else ():
                    self.move_slot(slot, home)

    def _family(self, node: ClusterNode) -> list[ClusterNode]:
        """The other nodes that have the same data: a primary with its replicas, whoever of them leads now."""
        home = self._replicates.get(node.port, node)
        return [other for other in self.nodes if other is not node and self._replicates.get(other.port, other) is home]

    def _view(self) -> list[tuple[Range, list[int]]]:
        return next(node for node in self.nodes if node.answers).slots()

    def _at(self, port: int) -> ClusterNode:
        return next(node for node in self.nodes if node.port == port)


class MakeCluster(Protocol):
    """The fixture `make_cluster`."""

    def __call__(
        self,
        *,
        primaries: int = 3,
        replicas: int = 1,
        aof: bool = False,
        node_timeout: float = NODE_TIMEOUT,
        access: Access = OPEN,
        options: Sequence[str] = (),
        kind: str = "redis",
    ) -> RedisCluster: ...


class Move:
    """A slot on its way: the source asks clients to ASK the target for each key that it has no more."""

    def __init__(self, cluster: RedisCluster, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        self.slot = slot
        self.source = source
        self.target = target
        self._cluster = cluster
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    def keys(self) -> list[str]:
        """The keys that are still at the source, at most 1,000."""
        return list(self.source.call("CLUSTER", "GETKEYSINSLOT", self.slot, 1_000))

    def migrate(self, *keys: str) -> None:
        """Move these keys; with some of a script's keys here and some there, the nodes answer it with TRYAGAIN."""
        password = self._cluster.access.admin_password
        authentication = ["AUTH", password] if password else []
        self.source.call(
            *("MIGRATE", HOST, self.target.port, "", 0, MIGRATE_MILLISECONDS),
            *("REPLACE", *authentication, "KEYS", *keys),
        )

    def finish(self) -> None:
        """Move the remaining keys and give the slot to the target; returns when all nodes know."""
        while keys := self.keys():
            self.migrate(*keys)
        owner = self.target.id
        others = [node for node in self._cluster.primaries() if node not in (self.target, self.source)]
        # The target first: if it fails after the source let go, nobody would own the slot.
        for node in (self.target, self.source, *others):
            node.call("CLUSTER", "SETSLOT", self.slot, "NODE", owner)
        self._cluster.wait_until_ok()

    def cancel(self) -> None:
        """Take the keys back, and leave the slot where it was."""
        back = self.target.call("CLUSTER", "GETKEYSINSLOT", self.slot, 1_000)
        self.target.call("CLUSTER", "SETSLOT", self.slot, "STABLE")
        self.source.call("CLUSTER", "SETSLOT", self.slot, "STABLE")
        assert not back, f"{len(back)} keys have been moved: finish instead"


def _known(node: ClusterNode) -> set[str]:
    """The ids of the nodes that one has met."""
    lines = str(node.call("CLUSTER", "NODES")).splitlines()
    return {line.split()[0] for line in lines if "handshake" not in line}


def _open_slots(node: ClusterNode) -> list[int]:
    """The slots that are on their way to or from a node."""
    mine = next(line for line in str(node.call("CLUSTER", "NODES")).splitlines() if "myself" in line)
    return [int(word[1:].split("-")[0]) for word in mine.split()[8:] if word.startswith("[")]


def _is_primary(node: ClusterNode) -> bool:
    return node.role() == "master"


def _common(one: Range, other: Range) -> range:
    """The slots of both ranges."""
    return range(max(one[0], other[0]), min(one[1], other[1]) + 1)
