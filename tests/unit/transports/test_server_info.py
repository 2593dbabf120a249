"""What a Redis server's INFO means for the log, over TCP and over REST."""

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from tidewire.errors import SettingsError, TransportUnavailable
from tidewire.transports.redis import server_info
from tidewire.transports.redis.server_info import check_server
from tidewire.transports.redis.topology import TIMEOUT

from tests.support.clocks import virtual_time
from tests.support.scripted_redis import HANG_UP, SILENCE, Reply, ScriptedRedis

INFO = "# Server\r\nredis_version:7.4.0\r\nredis_mode:{mode}\r\n# Memory\r\nmaxmemory_policy:{policy}\r\nlast:1\r\n"
EVICTS = (
    "Redis may evict keys when its memory is full (maxmemory-policy is allkeys-lru): an event whose id was evicted is"
    " appended a second time, and events are lost before REALTIME_RETENTION; set maxmemory-policy to noeviction"
)


def info(mode: str = "standalone", policy: str = "noeviction") -> str:
    return INFO.format(mode=mode, policy=policy)


class FakeSession:
    """Upstash's REST API; it answers as scripted."""

    reply: object = ""
    seconds = 0.0
    made: ClassVar[list["FakeSession"]]

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token
        self.sent: list[tuple[Sequence[Any], bool]] = []
        self.closed = False
        self.made.append(self)

    async def send(self, commands: Sequence[Any], *, cold: bool = False) -> list[object]:
        self.sent.append((commands, cold))
        await asyncio.sleep(self.seconds)
        if isinstance(self.reply, Exception):
            raise self.reply
        return [self.reply]

    async def aclose(self) -> None:
        self.closed = True


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    """The class that stands for the REST session in this test."""

    class Session(FakeSession):
        made: ClassVar[list[FakeSession]] = []

    monkeypatch.setattr(server_info, "Session", Session)
    return Session


@pytest.mark.parametrize(
    ("reply", "warnings"),
    [
        (info().encode(), []),
        (info(policy="allkeys-lru").encode(), [EVICTS]),
        (b"redis_version:7\r\nx_maxmemory_policy:allkeys-lru\r\n", []),
        (b"x_redis_mode:cluster\r\nredis_mode:clustered\r\n", []),
        ("OK", []),
        (None, []),
        (Exception("NOPERM no permission"), []),
        (HANG_UP, []),
        (SILENCE, []),
    ],
    ids=["fine", "evicts", "other", "other-mode", "status", "nil", "refused", "lost", "silent"],
)
def test_info_over_tcp_gives_warnings(reply: Reply, warnings: list[str]) -> None:
    """A server that does not answer gives none: the start does not fail by it."""

    @virtual_time
    async def run() -> None:
        redis = ScriptedRedis(lambda *_: reply).install()
        assert await check_server("redis://h:7", "https://unused", "unused") == warnings
        (peer,) = redis.opened
        assert peer.address[:2] == ("h", 7)
        assert peer.commands == [[b"INFO"]]
        assert peer.is_closing()
        assert asyncio.get_running_loop().time() == (TIMEOUT if reply is SILENCE else 0)

    run()


@virtual_time
async def test_a_server_that_is_unavailable_gives_no_warnings() -> None:
    redis = ScriptedRedis(lambda *_: b"").install()
    redis.delay = 60
    assert await check_server("redis://h", None, None) == []
    assert asyncio.get_running_loop().time() == TIMEOUT
    redis.failure = ConnectionRefusedError()
    redis.delay = 0
    assert await check_server("redis://h", None, None) == []


@pytest.mark.parametrize("field", ["redis_mode", "server_mode"], ids=["redis", "valkey"])
@virtual_time
async def test_cluster_mode_is_refused(field: str) -> None:
    text = info(mode="cluster").replace("redis_mode", field)
    ScriptedRedis(lambda *_: text.encode()).install()
    with pytest.raises(SettingsError) as caught:
        await check_server("redis://h", None, None)
    expected = "names a Redis in cluster mode: begin the URL with redis+cluster:// or rediss+cluster://"
    assert str(caught.value) == str(SettingsError("REDIS_URL", expected))


@pytest.mark.parametrize(
    ("reply", "warnings"),
    [
        (info(), []),
        (info(policy="allkeys-lru"), [EVICTS]),
        (None, []),
        (TransportUnavailable("no answer"), []),
    ],
    ids=["fine", "evicts", "nil", "away"],
)
async def test_info_over_rest_gives_warnings(session: type[FakeSession], reply: object, warnings: list[str]) -> None:
    session.reply = reply
    assert await check_server(None, "https://h", "token") == warnings
    (made,) = session.made
    assert (made.url, made.token) == ("https://h", "token")
    assert made.sent == [([["INFO"]], True)]
    assert made.closed


def test_a_silent_rest_server_gives_no_warnings(session: type[FakeSession]) -> None:
    @virtual_time
    async def run() -> None:
        session.seconds = 60
        session.reply = info(mode="cluster")
        assert await check_server(None, "https://h", "token") == []
        assert asyncio.get_running_loop().time() == TIMEOUT
        assert session.made[0].closed

    run()


async def test_cluster_mode_behind_rest_is_refused(session: type[FakeSession]) -> None:
    session.reply = info(mode="cluster")
    with pytest.raises(SettingsError, match=r"^UPSTASH_REDIS_REST_URL: names"):
        await check_server(None, "https://h", "token")
