"""The nodes of a Redis Cluster: which of them owns a key, and a connection pool for each.

redis-py's cluster client discovers the nodes and their slots (CLUSTER SLOTS), from the seeds of the URL and from every
node that it has found. Commands go over our own pools. A reply of MOVED, ASK, TRYAGAIN or CLUSTERDOWN, and a lost node,
lead to another try at the node that owns the slot now
(https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/).
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.crc import key_slot
from redis.exceptions import MovedError, NoPermissionError, RedisClusterException

from tidewire.errors import TransportUnavailable
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.circuit_breaker import CircuitBreaker
from tidewire.transports.errors import (
    CommandError,
    ConnectionClosed,
    ConnectionLost,
    ReadTimeout,
    Redirection,
    StoreError,
    unavailable,
)
from tidewire.transports.redis.address import Address, Command, Servers
from tidewire.transports.redis.pool import TIMEOUT, ConnectionPool
from tidewire.transports.redis.redis_py import translate

logger = logging.getLogger(__name__)

DISCOVERY_SECONDS = 1.5  # for one node's answer to CLUSTER SLOTS: a caller waits `TIMEOUT` for all of it
DISCOVERY_PAUSE = 0.1  # seconds between two discoveries: each takes about 10 ms of this process

GRACE = 0.2  # seconds: the pool measures the same time-out, and knows better why it ended

Reply = Any
"""A raw reply, a CommandError, or the TransportUnavailable of a node that could not be reached."""


class Node:
    """A node of the cluster; its name is `host:port`."""

    def __init__(self, name: str, address: Address, on_evicted: Callable[[str], None]) -> None:
        self.name = name
        self.address = address
        self.pool = ConnectionPool(address, lambda: on_evicted(name), returns_redirections=True)
        self.breaker = CircuitBreaker((ConnectionLost, ReadTimeout), self._unavailable)

    async def send(self, commands: Sequence[Command], *, until: float, even_if_open: bool = False) -> list[Any]:
        """Return the replies by `until`, a time of the loop; see `ConnectionPool.send`. Raises TransportUnavailable."""

        async def send_in_time() -> list[Any]:
            try:
                async with asyncio.timeout_at(until + GRACE):
                    return await self.pool.send(commands)
            except TimeoutError:
                raise ReadTimeout("no answer in time") from None

        try:
            return await self.breaker.run(send_in_time, even_if_open=even_if_open)
        except StoreError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> TransportUnavailable:
        return unavailable("A node of the Redis Cluster", error, is_cluster=True)


class ClusterNodes:
    """Sends each command to the node that owns its key.

    `on_changed` is called after a slot may have another owner, and `on_evicted` with the name of a node whose
    connections were lost.
    """

    def __init__(self, url: str, on_changed: Callable[[], None], on_evicted: Callable[[str], None]) -> None:
        self._servers = Servers.parse(url)
        self._url = url
        self._on_changed = on_changed
        self._on_evicted = on_evicted
        self._nodes: dict[str, Node] = {}
        self._client: RedisCluster | None = None  # with the slots as they were discovered last
        self._refreshing: asyncio.Task[None] | None = None
        self._refresh_at = 0.0  # on the loop's clock: no discovery begins before it
        self._closed = False

    @property
    def is_known(self) -> bool:
        """Whether the nodes and their slots have been discovered."""
        return self._client is not None

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes to which something was sent since they joined."""
        return tuple(self._nodes.values())

    def owner(self, key: str) -> Node | None:
        """Return the node that owns a key as far as this process knows; None if no node does."""
        if self._client is None:
            return None
        owners = self._client.nodes_manager.slots_cache.get(key_slot(key.encode()))
        return self._node(owners[0]) if owners else None

    def replicas(self, node: Node) -> Sequence[str]:
        """Return the names of a primary's replicas."""
        if self._client is None:
            return ()
        slots = self._client.nodes_manager.slots_cache.values()
        return next((tuple(each.name for each in nodes[1:]) for nodes in slots if nodes[0].name == node.name), ())

    async def discover(self) -> None:
        """Discover the nodes unless they are known. Raises TransportUnavailable."""
        if self._client is None:
            await self.refresh()

    async def refresh(self) -> None:
        """Discover the nodes and their slots again, once for all concurrent callers. Raises TransportUnavailable."""
        refreshing = self._begin_refresh()
        await asyncio.wait((refreshing,))  # a cancelled caller leaves it to the others
        if refreshing.cancelled():
            raise _closed()
        refreshing.result()

    def _begin_refresh(self) -> "asyncio.Task[None]":
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
            self._refreshing.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._refreshing

    async def send(self, commands: Sequence[Command], *, even_if_open: bool = False) -> list[Reply]:
        """Return the reply to each command; those of an unreachable node are TransportUnavailable, others are not lost.

        A caller waits `TIMEOUT` at most.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + TIMEOUT
        backoff = Backoff(base=0.02, cap=0.5)
        replies: list[Reply] = [None] * len(commands)
        left: Sequence[int] = range(len(commands))
        redirected = False
        try:
            await self.discover()
        except TransportUnavailable as error:
            return [error] * len(commands)
        while True:
            if self._closed:
                return [_closed()] * len(commands)
            for index, reply in await self._try(commands, left, even_if_open, until):
                replies[index] = reply
            if any(_is_silent(replies[index]) for index in left):
                _ = self._begin_refresh()  # a later caller must not wait for a node that was replaced meanwhile
            left = [index for index in left if _may_pass(replies[index])]
            if not left or clock() >= until:
                return replies
            if redirected or not all(_is_moved(replies[index]) for index in left):
                with suppress(TransportUnavailable, TimeoutError):  # else the next try fails, or finds the node again
                    async with asyncio.timeout_at(until):
                        await self.refresh()
                        await asyncio.sleep(backoff.next())
                # A node that is known to be unavailable is not waited for, unless another one owns its slots now.
                left = [index for index in left if not self._is_unavailable(commands[index])]
            else:
                redirected = True  # two nodes that disagree send a command to and fro

    def evict(self) -> None:
        """Close idle connections to all nodes now, and those in use when they become free."""
        for node in self._nodes.values():
            node.pool.evict()

    async def aclose(self) -> None:
        """Close every connection."""
        self._closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
        await asyncio.gather(*(node.pool.aclose() for node in self._nodes.values()), _close(self._client))

    async def _try(
        self, commands: Sequence[Command], indexes: Iterable[int], even_if_open: bool, until: float
    ) -> Iterable[tuple[int, Reply]]:
        """Send these commands once, to all nodes at the same time; return each index with its reply."""
        groups: defaultdict[Node | None, list[int]] = defaultdict(list)
        for index in indexes:
            groups[self.owner(_key(commands[index]))].append(index)
        answers = await asyncio.gather(
            *(
                self._send_to(node, [commands[index] for index in group], even_if_open, until)
                for node, group in groups.items()
            )
        )
        return [
            pair
            for group, answer in zip(groups.values(), answers, strict=True)
            for pair in zip(group, answer, strict=True)
        ]

    def _is_unavailable(self, command: Command) -> bool:
        owner = self.owner(_key(command))
        return owner is not None and owner.breaker.is_open

    async def _send_to(
        self, node: Node | None, commands: Sequence[Command], even_if_open: bool, until: float
    ) -> Sequence[Reply]:
        if node is None:
            error = unavailable("The Redis Cluster", "no node owns the slot", is_cluster=True)
            return [error] * len(commands)
        try:
            replies = await node.send(commands, even_if_open=even_if_open, until=until)
        except TransportUnavailable as error:
            return [error] * len(commands)
        for index, reply in enumerate(replies):
            if isinstance(reply, CommandError) and reply.redirection is not None:
                replies[index] = await self._redirect(node, reply.redirection, commands[index], reply, until)
        return replies

    async def _redirect(
        self, node: Node, to: Redirection, command: Command, reply: CommandError, until: float
    ) -> Reply:
        """Note a slot's new owner; or, while a slot is being moved, ask the node that takes it."""
        host = to.host or node.address.host
        if not to.asking:
            if self._client is not None and to.slot in self._client.nodes_manager.slots_cache:
                await self._client.nodes_manager.move_slot(MovedError(f"{to.slot} {host}:{to.port}"))
            self._on_changed()
            return reply
        target = self._node(ClusterNode(host, to.port))
        try:
            _, answer = await target.send([["ASKING"], command], until=until)
        except TransportUnavailable as error:
            return error
        return answer

    async def _refresh(self) -> None:
        if self._closed:
            raise _closed()
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self._refresh_at - clock())
        self._refresh_at = clock() + DISCOVERY_PAUSE
        # Of the nodes that were known, none may be left: then the seeds are asked, whose names may lead elsewhere now.
        if self._client is None or await self._discover_with(self._client) is not None:
            client = self._make_client()
            try:
                failure = await self._discover_with(client)
            except BaseException:  # cancelled by `aclose`
                await _close(client)
                raise
            if failure is not None:
                await _close(client)
                raise unavailable("The Redis Cluster", _cause(failure), is_cluster=True) from failure
            before, self._client = self._client, client
            await _close(before)
        assert self._client is not None
        present = self._client.nodes_manager.nodes_cache
        for name in [name for name in self._nodes if name not in present]:
            await self._nodes.pop(name).pool.aclose()
        self._on_changed()

    async def _discover_with(self, client: RedisCluster) -> BaseException | None:
        """Return None once this client knows nodes and slots, or else the failure."""
        try:
            async with asyncio.timeout(TIMEOUT):
                await client.nodes_manager.initialize()
        except Exception as error:  # noqa: BLE001 - an answer of another kind of server may be of any shape
            return error
        return None

    def _make_client(self) -> RedisCluster:
        scheme, _, rest = self._url.partition("://")
        user, at, hosts = rest.rpartition("@")
        first, _, tail = hosts.partition(",")
        query = tail.partition("?")[2] if tail else ""
        one = f"{scheme.partition('+')[0]}://{user}{at}{first}{'?' + query if query else ''}"
        return RedisCluster.from_url(
            one,
            startup_nodes=[ClusterNode(seed.host, seed.port) for seed in self._servers.seeds],
            require_full_coverage=False,
            socket_timeout=DISCOVERY_SECONDS,
            socket_connect_timeout=DISCOVERY_SECONDS,
            protocol=2,
            driver_info=None,
        )

    def _node(self, found: ClusterNode) -> Node:
        node = self._nodes.get(found.name)
        if node is None:
            node = self._nodes[found.name] = Node(
                found.name, self._servers.node(found.host, int(found.port)), self._on_evicted
            )
        return node


async def _close(client: RedisCluster | None) -> None:
    if client is not None:
        await client.nodes_manager.aclose()
        await client.nodes_manager.aclose("startup_nodes")


def _key(command: Command) -> str:
    """Return the key of a command that decides its slot."""
    key = command[3] if command[0] in ("EVAL", "EVALSHA") else command[1]
    return key if isinstance(key, str) else bytes(key).decode()


def _is_moved(reply: Reply) -> bool:
    return isinstance(reply, CommandError) and reply.code == "MOVED"


def _is_silent(reply: Reply) -> bool:
    return isinstance(reply, TransportUnavailable) and isinstance(reply.__cause__, ReadTimeout)


def _closed() -> TransportUnavailable:
    return unavailable("The Redis Cluster", ConnectionClosed("the connections to Redis were closed"), is_cluster=True)


def _may_pass(reply: Reply) -> bool:
    """Return whether the same command may succeed soon: its slot or its node is being replaced."""
    if isinstance(reply, TransportUnavailable):
        return not _is_silent(reply)  # a time-out was the caller's whole wait
    return isinstance(reply, CommandError) and reply.code in ("MOVED", "TRYAGAIN", "CLUSTERDOWN")


def _cause(error: BaseException) -> Exception | str:
    """Return our error for one of redis-py's, whose text may hold a host."""
    inner = error.__cause__ if isinstance(error, RedisClusterException) and error.__cause__ else error
    if isinstance(inner, RedisClusterException):
        if isinstance(inner.__context__, NoPermissionError):
            return CommandError("NOPERM")  # of CLUSTER SLOTS
        return "no node knows all slots, or the server is not in cluster mode"
    return translate(inner) if isinstance(inner, Exception) else "no answer in time"
