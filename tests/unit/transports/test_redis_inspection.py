"""What the doctor cannot see on the servers of this machine: clocks that differ, old nodes, a vendor's refusals."""

import re
import time
from collections.abc import Sequence

from tidewire.transports.redis.inspection import inspect_redis

from tests.support.scripted_redis import Peer, Reply, ScriptedRedis

ONE, OTHER = "a" * 40, "b" * 40
NODES = (
    f"{ONE} 10.0.0.1:6379@16379,one.example.com myself,master - 0 0 1 connected 0-8191 [42->-{OTHER}]\n"
    f"{OTHER} 10.0.0.2:6379@16379,two.example.com master - 0 0 2 connected 8192-16383\n"
    f"{'c' * 40} :0@0 master,noaddr - 0 0 3 disconnected\n"
)
SLOTS = [
    [0, 8191, [b"one.example.com", 6379, ONE.encode(), []]],
    [8192, 16383, [b"two.example.com", 6379, OTHER.encode(), []]],
]
INFO = "redis_version:{version}\r\naof_enabled:0\r\nmaster_repl_offset:10\r\nconnected_slaves:0\r\n"


def cluster(ahead: float = 0.0, version: str = "7.2.4") -> ScriptedRedis:
    """Two primaries of a vendor that answers no CONFIG; the second one's clock is ahead."""

    def answer(peer: Peer, command: Sequence[bytes]) -> Reply:
        is_second = peer.address[0] == "two.example.com"
        if command[0] == b"CLUSTER":
            return NODES.encode() if command[1] == b"NODES" else SLOTS
        if command[0] == b"TIME":
            seconds, rest = divmod(time.time() + (ahead if is_second else 0), 1)
            return [b"%d" % seconds, b"%d" % (rest * 1e6)]
        if command[0] == b"INFO":
            return INFO.format(version=version if is_second else "7.2.4").encode()
        return Exception("ERR unknown command 'CONFIG'")

    return ScriptedRedis(answer)


async def problems(redis: ScriptedRedis) -> list[str]:
    """What is wrong, without the missing replicas."""
    redis.install()
    found = await inspect_redis("redis+cluster://seed:1")
    assert [node.name for node in found.nodes] == ["one.example.com:6379", "two.example.com:6379"]
    return [problem.text for problem in found.problems if "no connected replica" not in problem.text]


async def test_what_a_vendor_refuses_is_no_problem() -> None:
    """Nodes are addressed by the names for clients; no command could return a password."""
    redis = cluster()
    assert await problems(redis) == []
    assert {b" ".join(command) for command in redis.commands if command[0] == b"CONFIG"} == {
        b"CONFIG GET save",
        b"CONFIG GET cluster-require-full-coverage",
    }


async def test_clocks_may_differ_by_a_second() -> None:
    assert await problems(cluster(ahead=0.5)) == []
    (text,) = await problems(cluster(ahead=30))
    assert re.fullmatch(
        r"the clock of two\.example\.com:6379 is at least (29\.\d|30\.0) s ahead of one\.example\.com:6379's", text
    )


async def test_an_old_node_is_named() -> None:
    (text,) = await problems(cluster(version="6.2.14"))
    assert text.startswith("two.example.com:6379: older than Redis 7")
    assert await problems(cluster(version="unstable")) == []
