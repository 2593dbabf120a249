"""The servers that a `REDIS_URL` leads to, and what each says of itself; for the start and for the doctor.

Nothing is kept: each function opens connections of its own, and closes them.
"""

import asyncio
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tidewire.errors import SettingsError
from tidewire.transports.base import Role, StoreNode
from tidewire.transports.errors import CommandError, ConnectionLost, StoreError
from tidewire.transports.redis.address import Address, Command, Servers
from tidewire.transports.redis.connection import Connection

TIMEOUT = 2.0  # seconds for the connection, and again for the reply
SLOTS = 16_384

# One each: Redis before 7 takes no two names, and a pattern would return passwords.
_SETTINGS: Sequence[Command] = (("CONFIG", "GET", "save"), ("CONFIG", "GET", "cluster-require-full-coverage"))
_NO_CLUSTER = "names a Redis that is not in cluster mode: begin the URL with redis:// or rediss://"


class Server(NamedTuple):
    """A server as discovery names it: by the URL, by the sentinels, or by the nodes of its cluster."""

    name: str  # host:port, or the path of a Unix socket
    address: Address
    role: Role = "primary"
    primary: str = ""  # the name of the server that a replica follows
    slots: int = 0
    has_failed: bool = False  # as the other nodes say


class Answer(NamedTuple):
    """What one server says; if it does not answer, `failure` is the reason and the rest is empty."""

    server: Server
    failure: str = ""
    info: Mapping[str, str] = {}
    settings: Mapping[str, str] = {}  # CONFIG GET; empty if it is refused, as by most vendors
    ahead: tuple[float, float] | None = None  # seconds by which its clock is ahead of ours: at least, at most

    @property
    def replicas(self) -> Sequence[StoreNode]:
        """The replicas that are connected to this primary."""
        end = number(self.info.get("master_repl_offset"))
        found = []
        for field, value in self.info.items():
            if field.startswith("slave") and field[5:].isdecimal():
                of = dict(pair.partition("=")[::2] for pair in value.split(","))
                behind = max(end - number(of.get("offset")), 0), number(of.get("lag"))
                name = f"{of.get('ip')}:{of.get('port')}"
                found.append(StoreNode(name, "replica", of.get("state") == "online", behind=behind))
        return found


async def call(address: Address, commands: Sequence[Command]) -> list[Any]:
    """Return the replies to commands over a new connection. Raises StoreError."""
    connection = Connection(address)
    try:
        await connection.connect(TIMEOUT)
        return await connection.call(commands, TIMEOUT)
    finally:
        connection.close()


async def find_servers(servers: Servers) -> Sequence[Server]:
    """Return the server of a URL, the primary that its sentinels name, or all nodes of its cluster.

    Raises StoreError if no seed answers, and SettingsError if the seeds are not of the kind that the URL names.
    """
    if servers.kind == "single":
        return [Server(servers.seeds[0].name, servers.seeds[0])]
    failure: StoreError = ConnectionLost("no seed")
    for seed in servers.seeds:
        try:
            if servers.kind == "cluster":
                return await _find_nodes(servers, seed)
            place = await primary_at(seed, servers.service)
        except StoreError as error:
            failure = error
            continue
        if place is not None:
            return [Server(servers.node(*place).name, servers.node(*place))]
        failure = ConnectionLost("the sentinels know no primary of the name in REDIS_URL")
    raise failure


async def primary_at(sentinel: Address, service: str) -> tuple[str, int] | None:
    """Return the address of the primary that a sentinel names, None if it knows none. Raises StoreError."""
    (place,) = await call(sentinel, [["SENTINEL", "GET-MASTER-ADDR-BY-NAME", service]])
    if isinstance(place, CommandError):
        raise place
    return None if place is None else (place[0].decode(), int(place[1]))


async def ask(server: Server) -> Answer:
    """Ask a server for all that the doctor wants to know."""
    before = time.time()
    try:
        clock, info, *settings = await call(server.address, [["TIME"], ["INFO"], *_SETTINGS])
    except StoreError as error:
        return Answer(server, str(error))
    after = time.time()
    found = {name: value for reply in settings for name, value in pairs(reply)}
    ahead = None
    if isinstance(clock, list):
        at = int(clock[0]) + int(clock[1]) / 1e6
        ahead = at - after, at - before
    return Answer(server, "", parse_info(info), found, ahead)


def parse_info(reply: Any) -> Mapping[str, str]:
    """Return the fields of a reply to INFO; none if it was refused."""
    text = reply.decode() if isinstance(reply, bytes) else reply if isinstance(reply, str) else ""
    return dict(line.partition(":")[::2] for line in text.splitlines() if ":" in line)


async def ask_all(servers: Sequence[Server]) -> Sequence[Answer]:
    """Ask all servers at the same time."""
    return await asyncio.gather(*(ask(server) for server in servers))


async def _find_nodes(servers: Servers, seed: Address) -> Sequence[Server]:
    """Return the nodes that a node knows.

    CLUSTER NODES has those that failed too, but CLUSTER SLOTS alone has the addresses that are meant for clients.
    """
    nodes, slots = await call(seed, [["CLUSTER", "NODES"], ["CLUSTER", "SLOTS"]])
    for reply in (nodes, slots):
        if isinstance(reply, CommandError):
            if reply.code == "ERR":
                raise SettingsError("REDIS_URL", _NO_CLUSTER)
            raise reply
    hosts = {holder[2]: holder[0] for _, _, *holders in slots for holder in holders if len(holder) > 2}
    lines = [line.split() for line in nodes.decode().splitlines()]
    found: dict[str, tuple[str, int]] = {}
    for identity, place, *_ in lines:
        ip, _, port = place.partition("@")[0].rpartition(":")
        host = (hosts.get(identity.encode()) or b"").decode()
        found[identity] = (ip if host in ("", "?") else host) or seed.host, int(port or 0)
    return [
        Server(
            "{}:{}".format(*found[identity]),
            servers.node(*found[identity]),
            "replica" if "slave" in flags.split(",") else "primary",
            "{}:{}".format(*found[primary]) if primary in found else "",
            sum(_size(part) for part in rest[4:] if not part.startswith("[")),
            "fail" in flags.split(","),
        )
        for identity, _, flags, primary, *rest in lines
        if not {"noaddr", "handshake"} & set(flags.split(","))
    ]


def _size(slots: str) -> int:
    first, _, last = slots.partition("-")
    return int(last or first) - int(first) + 1


def number(text: str | None) -> int:
    """Return the number at the start of a field, 0 if there is none: vendors leave fields out, or write others."""
    found = re.match(r"\d+", text or "")
    return int(found[0]) if found else 0


def pairs(reply: Any) -> Iterator[tuple[str, str]]:
    """Yield the fields of a reply that is a list of names and values; none if it was refused."""
    if isinstance(reply, list):
        for name, value in zip(reply[::2], reply[1::2], strict=True):
            yield name.decode(), value.decode(errors="replace")
