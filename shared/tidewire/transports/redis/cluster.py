"""The log on Redis Streams in a Redis Cluster: each partition on the node that owns its slot.

A script reaches the keys of one partition alone. So two parts of an append that are one atomic step on one server are
separate here:

- The registry of partition schemes is one partition among others. Every other one has a **fence**, a copy of the
  registry's check. An append names the check that its writer knows, and is refused if it differs from the fence. A
  writer that announces a scheme raises all fences before its first append under it.
  A failover may lose an announcement or a fence, but hardly both. So each writer compares the registry with what it
  knows after every change of the nodes, and once a second while it appends.
- Ids that are known under other schemes are read before the append. That is safe because all writers append under the
  newest scheme: behind the fences, the partitions of older schemes do not grow any more.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Position
from tidewire.model.partition_schemes import Registry
from tidewire.model.partitions import SCHEMES, Partitions
from tidewire.transports import errors
from tidewire.transports.appending import Answer, Part
from tidewire.transports.base import Handler, Retention, StoreNode
from tidewire.transports.errors import CommandError
from tidewire.transports.redis.address import Command
from tidewire.transports.redis.cluster_nodes import ClusterNodes, Node
from tidewire.transports.redis.cluster_tail import ClusterTail
from tidewire.transports.redis.layout import (
    APPEND,
    Call,
    Layout,
    Script,
    is_outdated,
    parse_position,
    parse_registry,
)
from tidewire.transports.redis.streams import StreamsLog

FENCE = Script.load("fence")
KNOWN = Script.load("known")

CLOCK_TOLERANCE = 1_000  # ms: nodes with NTP differ by a few
REGISTRY_CHECK = 1.0  # seconds between two comparisons of the registry with what a writer knows
REGISTRY_WAIT = 0.25  # seconds for its answer: while its node is lost, appends to other nodes go on
_ROUNDS = 20  # fences that another writer raised at the same moment


class ClusterStreams(StreamsLog[ClusterTail]):
    """A `Log` on Redis Streams in a cluster."""

    def __init__(
        self,
        url: str,
        prefix: str = "rt",
        partitions: Partitions = Partitions(),
        retention: Retention = Retention(),
    ) -> None:
        super().__init__(Layout(prefix, retention, sharded=True), partitions, retention, under_newest_scheme=True)
        self._scheme = partitions
        self._fenced_key = f"{{{self.layout.stream(SCHEMES)}}}:fenced"  # the check up to which all fences are raised
        self._fenced = ""  # the registry's check up to which all fences are known to be raised
        self._check_at = 0.0  # on the loop's clock: the next comparison of the registry
        self.nodes = ClusterNodes(url, self._reassign_tails, self._reconnect_tails)

    async def send(self, commands: Sequence[Command], *, even_if_open: bool = False) -> list[Any]:
        """Return the replies, raw. Raises TransportUnavailable if one of the nodes cannot be reached."""
        replies = await self.nodes.send(commands, even_if_open=even_if_open)
        for reply in replies:
            if isinstance(reply, TransportUnavailable):
                raise reply
        return replies

    async def ping(self) -> None:
        """Return if every node that holds partitions of this process's scheme would accept an append."""
        await self.nodes.discover()
        by_node: dict[Node | None, str] = {}
        for name in (*self._scheme.names(), SCHEMES):
            stream = self.layout.stream(name)
            by_node.setdefault(self.nodes.owner(stream), f"{{{stream}}}:health")
        for reply in await self.send([["SET", key, "1", "XX"] for key in by_node.values()], even_if_open=True):
            if isinstance(reply, CommandError):
                raise _refused(reply) from reply

    @property
    def is_unavailable(self) -> bool:
        """Whether a node is known to be unavailable."""
        return any(node.breaker.is_open for node in self.nodes.nodes)

    def store_nodes(self) -> Sequence[StoreNode]:
        """Return the primaries that this process uses; see `Nodes`."""
        readers = {reader.node: reader for tail in self._tails for reader in tail.readers}
        states = []
        for node in self.nodes.nodes:
            reader = readers.get(node)
            followed, is_read = (0, True) if reader is None else (len(reader.partitions), reader.running)
            states.append(StoreNode(node.name, "primary", not node.breaker.is_open, followed, is_read))
        return states

    @property
    def clock_tolerance(self) -> int:
        """By how many milliseconds the clocks of the nodes may differ."""
        return CLOCK_TOLERANCE

    async def aclose(self) -> None:
        """Close every connection."""
        await super().aclose()
        await self.nodes.aclose()

    def _make_tail(self, handler: Handler) -> ClusterTail:
        return ClusterTail(self.nodes, self.layout, self._read_heads, handler)

    def _reassign_tails(self) -> None:
        self._check_at = 0.0
        for tail in self._tails:
            tail.reassign()

    def _reconnect_tails(self, node: str) -> None:
        for tail in self._tails:
            tail.reconnect(node)

    async def _append(self, expected: str, parts: Sequence[Part]) -> tuple[list[Answer], Registry | None]:
        if any(part.partition != SCHEMES for part in parts):
            if (other := await self._find_other_registry(expected)) is not None:
                return [None] * len(parts), other
            if expected != self._fenced:
                await self._raise_fences(expected)
        answers = await self._find_known(parts)
        rest = [index for index, answer in enumerate(answers) if answer is None]
        if not rest:
            return answers, None
        calls = self.layout.append(expected, [parts[index]._replace(others=()) for index in rest])
        replies = [
            _refused(reply) if isinstance(reply, CommandError) else reply
            for reply in await APPEND.run(calls.calls, self.nodes.send)
        ]
        appended, registry = calls.answers(replies)
        for index, answer in zip(rest, appended, strict=True):
            answers[index] = answer
        fences = {
            batch[0][1].partition: parse_registry(reply).check
            for batch, reply in zip(calls.batches, replies, strict=True)
            if not isinstance(reply, TransportUnavailable) and is_outdated(reply)
        }
        if fences and SCHEMES not in fences:
            registry = await self._read_registry()  # after the fences; see fence.lua
            await self._set_fences(fences, registry.check)
        return answers, registry

    async def _find_known(self, parts: Sequence[Part]) -> list[Answer]:
        """Return for each part its positions under other schemes, None if it is new there, or why that is not known."""
        answers: list[Answer] = [None] * len(parts)
        wanted: dict[str, dict[str, None]] = {}
        for part in parts:
            for name, scope in part.others:
                wanted.setdefault(name, {})[scope] = None
        if not wanted:
            return answers
        calls: list[Call] = [
            ([self.layout.keys(name)[1], *(self.layout.id(name, scope) for scope in scopes)], [])
            for name, scopes in wanted.items()
        ]
        found: dict[tuple[str, str], Position] = {}
        lost: dict[str, TransportUnavailable] = {}
        for (name, scopes), reply in zip(wanted.items(), await KNOWN.run(calls, self.nodes.send), strict=True):
            if isinstance(reply, CommandError | TransportUnavailable):
                lost[name] = _refused(reply) if isinstance(reply, CommandError) else reply
            else:
                found |= {(name, scope): parse_position(at) for scope, at in zip(scopes, reply, strict=True) if at}
        for index, part in enumerate(parts):
            known = {place: found[place] for place in part.others if place in found}
            answers[index] = next((lost[name] for name, _ in part.others if name in lost), None) or known or None
        return answers

    async def _find_other_registry(self, expected: str) -> Registry | None:
        """Return the registry if it was due to be compared, and is not the one that the writer knows."""
        clock = asyncio.get_running_loop().time
        if clock() < self._check_at:
            return None
        self._check_at = clock() + REGISTRY_CHECK
        try:
            async with asyncio.timeout(REGISTRY_WAIT):
                registry = await self._read_registry()
        except (TransportUnavailable, TimeoutError):
            return None
        return None if registry.check == expected else registry

    async def _read_registry(self) -> Registry:
        (reply,) = await self._run(APPEND, [self.layout.read_registry()])
        return parse_registry(reply)

    async def _raise_fences(self, check: str) -> None:
        """Let every partition of a scheme in use refuse writers that do not know the registry's newest announcement."""
        if check:
            (marked,) = await self.send([["GET", self._fenced_key]])
            if isinstance(marked, CommandError):
                raise _refused(marked) from marked
            if marked != check.encode():
                registry = await self._read_registry()
                names = {name for scheme in registry.schemes(self._scheme) for name in scheme.names()}
                await self._set_fences(await self._read_fences(names), registry.check)
                (reply,) = await self.send([["SET", self._fenced_key, registry.check]])
                if isinstance(reply, CommandError):
                    raise _refused(reply) from reply
                if registry.check != check:
                    return  # the append is refused, and its writer reads the registry
        self._fenced = check

    async def _read_fences(self, partitions: Iterable[str]) -> Mapping[str, str]:
        names = tuple(partitions)
        fences = await self._run(FENCE, [([self.layout.fence(name)], []) for name in names])
        return dict(zip(names, (fence.decode() for fence in fences), strict=True))

    async def _set_fences(self, fences: Mapping[str, str], check: str) -> None:
        """Set the fences of partitions from what was read there to the registry's check, which was read later."""
        for _ in range(_ROUNDS):
            fences = {name: fence for name, fence in fences.items() if fence != check}
            if not fences:
                return
            calls: list[Call] = [([self.layout.fence(name)], [fence, check]) for name, fence in fences.items()]
            replies = await self._run(FENCE, calls)
            fences = dict(zip(fences, (fence.decode() for fence in replies), strict=True))
            if any(fence != check for fence in fences.values()):
                check = (await self._read_registry()).check
        raise TransportUnavailable("The partition schemes of the log keep changing")


def _refused(error: CommandError) -> TransportUnavailable:
    return errors.unavailable("The Redis Cluster", error, is_cluster=True)
