"""Which server the sentinels name, against sentinels in this process that behave as a test says."""

import asyncio
from collections.abc import Mapping

import pytest
from tidewire.transports.errors import ConnectionClosed, ConnectionLost
from tidewire.transports.redis.address import Address, Servers
from tidewire.transports.redis.sentinel import ASK_TIMEOUT, GRACE, INTERVAL, Sentinels, UnknownService

from tests.support.clocks import virtual_time
from tests.support.scripted_redis import SILENCE, Peer, Reply, ScriptedRedis

REFUSED = object()
"""The sentinel does not take connections."""


def named(host: str, *, epoch: int = 1, flags: str = "master", old: str | None = None) -> list[Reply]:
    """What a sentinel answers; `old` is the primary before, until a failover has ended."""
    state = [b"name", b"m", b"ip", (old or host).encode(), b"port", b"7", b"flags", flags.encode()]
    return [[host.encode(), b"7"], [*state, b"config-epoch", str(epoch).encode()]]


class Rig:
    """Sentinels a, b and c."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers
        self.moves = 0
        self.redis = ScriptedRedis(self._answer)
        self.redis.install()
        loop = asyncio.get_running_loop()
        connect = loop.create_connection

        async def create_connection(factory: object, host: str, port: int, **options: object) -> object:
            if self.answers[host] is REFUSED:
                raise ConnectionRefusedError
            return await connect(factory, host, port, **options)  # type: ignore[call-overload]

        loop.create_connection = create_connection  # type: ignore[method-assign,assignment]
        self.sentinels = Sentinels(Servers.parse("redis+sentinel://u:p@a,b,c/m"), self._moved)

    def _moved(self) -> None:
        self.moves += 1

    def _answer(self, peer: Peer, command: object) -> Reply:
        answer = self.answers[peer.address[0]]
        if not isinstance(answer, list):
            return answer
        assert isinstance(command, list)
        return answer[0 if command[1] == b"GET-MASTER-ADDR-BY-NAME" else 1]

    async def host(self) -> str:
        address = await self.sentinels.locate()
        assert address == Address(address.host, 7, None, None, (("AUTH", "u", "p"),))
        return address.host


NO_NAME: list[Reply] = [None, Exception("ERR No such master with that name")]
DOWN = named("old", flags="master,s_down,o_down")


@pytest.mark.parametrize(
    ("answers", "expected", "seconds"),
    [
        ({"a": named("p"), "b": named("p"), "c": SILENCE}, "p", 0),
        ({"a": named("p"), "b": REFUSED, "c": SILENCE}, "p", GRACE),
        ({"a": named("old"), "b": named("new", epoch=2), "c": SILENCE}, "new", 0),
        ({"a": DOWN, "b": named("new", epoch=2, old="old", flags="master,s_down"), "c": SILENCE}, "new", 0),
        ({"a": named("p", flags="master,s_down"), "b": named("p"), "c": SILENCE}, "p", 0),
        ({"a": DOWN, "b": DOWN, "c": SILENCE}, "report that the primary is down", 0),
        ({"a": NO_NAME, "b": NO_NAME, "c": NO_NAME}, "know no primary", 0),
        ({"a": NO_NAME, "b": named("p"), "c": SILENCE}, "p", 0),
        ({"a": [[b"p", b"7"], Exception("NOPERM")], "b": SILENCE, "c": SILENCE}, "p", GRACE),
        ({"a": SILENCE, "b": SILENCE, "c": REFUSED}, "no sentinel answers", ASK_TIMEOUT),
        ({"a": Exception("NOAUTH x"), "b": "OK", "c": REFUSED}, "(ConnectionRefusedError, NOAUTH, not a sentinel)", 0),
    ],
    ids=["majority", "one", "newer", "promoted", "one-sees-it", "down", "name", "some", "rights", "silent", "refused"],
)
def test_the_newest_answer_counts(answers: Mapping[str, object], expected: str, seconds: float) -> None:
    @virtual_time
    async def run() -> None:
        rig = Rig(**answers)
        if " " in expected:
            with pytest.raises(ConnectionLost) as caught:
                await rig.host()
            assert expected in str(caught.value)
            assert isinstance(caught.value, UnknownService) is ("know no" in expected)
        else:
            assert await rig.host() == expected
        assert asyncio.get_running_loop().time() == pytest.approx(seconds)
        await rig.sentinels.aclose()

    run()


@virtual_time
async def test_another_primary_is_noticed_without_a_call() -> None:
    rig = Rig(a=named("old"), b=named("old"), c=named("old"))
    assert await rig.host() == "old"
    rig.answers |= {"a": named("new", epoch=2)}
    await asyncio.sleep(2 * INTERVAL)
    assert rig.moves == 1
    assert await rig.host() == "new"
    await rig.sentinels.aclose()
    opened = len(rig.redis.opened)
    await asyncio.sleep(10 * INTERVAL)
    assert len(rig.redis.opened) == opened
    assert all(peer.is_closing() for peer in rig.redis.opened)


@virtual_time
async def test_a_replaced_primary_is_not_named_again() -> None:
    """Only a sentinel that was cut off answers; a majority with a lower epoch was set up anew, and counts."""
    rig = Rig(a=named("new", epoch=2), b=named("new", epoch=2), c=named("old"))
    assert await rig.host() == "new"
    rig.answers |= {"a": REFUSED, "b": SILENCE}
    for peer in rig.redis.opened:
        peer.hang_up()
    await asyncio.sleep(0)
    with pytest.raises(ConnectionLost, match="was replaced"):
        await rig.host()
    rig.answers |= {"a": named("old"), "b": named("old")}
    assert await rig.host() == "old"
    assert rig.moves == 1
    await rig.sentinels.aclose()


@virtual_time
async def test_without_an_answer_the_last_primary_is_used() -> None:
    rig = Rig(a=named("p"), b=named("p"), c=named("p"))
    assert await rig.host() == "p"
    rig.answers |= {"a": REFUSED, "b": REFUSED, "c": SILENCE}
    for peer in rig.redis.opened:
        peer.hang_up()
    await asyncio.sleep(0)
    assert await rig.host() == "p"
    assert rig.moves == 0
    await rig.sentinels.aclose()


@virtual_time
async def test_sentinels_that_disagree_do_not_alternate() -> None:
    """They have one epoch, as if their users may not read it: the primary changes once most of them name another."""
    rig = Rig(a=named("p"), b=named("p"), c=SILENCE)
    assert await rig.host() == "p"
    rig.answers |= {"a": named("q"), "b": named("p")}
    for _ in range(5):
        assert await rig.host() == "p"
    rig.answers |= {"b": named("q")}
    assert await rig.host() == "q"
    assert rig.moves == 1
    await rig.sentinels.aclose()


@virtual_time
async def test_callers_share_one_question() -> None:
    rig = Rig(a=named("p"), b=named("p"), c=named("p"))
    rig.redis.delay = 1
    asking = [asyncio.create_task(rig.host()) for _ in range(5)]
    await asyncio.sleep(0.5)
    asking[0].cancel()
    assert await asyncio.gather(*asking[1:]) == ["p"] * 4
    assert len(rig.redis.opened) <= 3
    rig.redis.delay = 0
    await rig.sentinels.aclose()


@virtual_time
async def test_closing_ends_a_question() -> None:
    rig = Rig(a=SILENCE, b=SILENCE, c=SILENCE)
    asking = asyncio.create_task(rig.host())
    await asyncio.sleep(0.5)
    await rig.sentinels.aclose()
    with pytest.raises(ConnectionClosed):
        await asking
    with pytest.raises(ConnectionClosed):
        await rig.host()
    assert all(peer.is_closing() for peer in rig.redis.opened)
