"""Sessions: counted in the limits, ended by their time or their token, and closed by one exit."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest
from tidewire.delivery.hub import Hub
from tidewire.delivery.limits import Connections
from tidewire.delivery.revocations import Revocation, Revocations
from tidewire.delivery.sessions import EXPIRING_SECONDS, PAGE_SECONDS, Session, Sessions
from tidewire.errors import Forbidden, TooManyRequests, Unauthorized, Unavailable
from tidewire.model.cursor import Cursor
from tidewire.model.partitions import ALL
from tidewire.model.permissions import AllowedTypes
from tidewire.model.record import Gap, Record
from tidewire.protocol.sse import DATA
from tidewire.protocol.subscribe_request import SubscribeRequest, parse_subscribe_request
from tidewire.security.tokens import Identity
from tidewire.transports.memory import MemoryLog

from tests.contract.acts import event, publish
from tests.contract.staged import StagedLog
from tests.support.clocks import pass_time, virtual_time
from tests.support.sinks import RecordingSink

QUERY = parse_subscribe_request(b"", {})
POLL = parse_subscribe_request(b"wait=20", {})


def make_sessions(hub: Hub, maximum: int = 0, per_user: int = 0, leeway: float = 0.0) -> Sessions:
    return Sessions(hub, Connections(maximum, per_user), leeway=leeway)


async def opened(
    sessions: Sessions,
    identity: Identity = Identity("u1"),
    query: SubscribeRequest = QUERY,
    seconds: float | None = None,
) -> tuple[Session, RecordingSink]:
    """A session that is live, and its sink."""
    session, sink = await sessions.open(identity, query, DATA, seconds=seconds), RecordingSink()
    session.start(sink)
    await sink.ready()
    return session, sink


@virtual_time
async def test_a_session_gives_its_place_back_when_it_closes() -> None:
    async with Hub(MemoryLog()) as hub:
        sessions = make_sessions(hub, maximum=1)
        session, _ = await opened(sessions)
        with pytest.raises(TooManyRequests):
            await sessions.open(Identity("u2"), QUERY, DATA)
        session.close()
        assert hub.snapshot().readers == {}
        again, _ = await opened(sessions)
        again.close()


@virtual_time
async def test_a_refused_session_takes_no_place() -> None:
    """The place is taken before the log is read: each refusal gives it back."""
    log = StagedLog(MemoryLog())
    async with Hub(log, revocations=Revocations(log, 60.0)) as hub:
        sessions = make_sessions(hub, maximum=1, per_user=1)
        with pytest.raises(Forbidden):
            await sessions.open(
                Identity("u1", AllowedTypes.parse(["a"])), parse_subscribe_request(b"types=b", {}), DATA
            )
        await hub.dispatch([Revocation("u1", time.time()).event()])
        with pytest.raises(Unauthorized):
            await sessions.open(Identity("u1", issued_at=1.0), QUERY, DATA)
        log.hold_heads()
        leaving = asyncio.create_task(sessions.open(Identity("u2"), QUERY, DATA))
        await log.head_asked()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        log.release_heads()
        session, _ = await opened(sessions, Identity("u2"))
        session.close()


@virtual_time
async def test_a_session_ends_after_its_seconds() -> None:
    async with Hub(MemoryLog()) as hub:
        session, sink = await opened(make_sessions(hub), seconds=100.0)
        began = asyncio.get_running_loop().time()
        await sink.until(lambda: sink.ended, seconds=200.0)
        assert asyncio.get_running_loop().time() - began == pytest.approx(100.0, abs=1.0)
        assert sink.closing == "max-age"
        assert session.subscriber.ending == "max-age"
        session.close()


@virtual_time
async def test_a_session_ends_with_its_token_and_warns_before() -> None:
    async with Hub(MemoryLog()) as hub:
        loop = asyncio.get_running_loop()
        began = loop.time()
        session, sink = await opened(make_sessions(hub), Identity("u1", expires_at=time.time() + 100), seconds=500.0)
        await sink.until(lambda: any(each.type == "realtime.expiring" for each in sink.all), seconds=200.0)
        assert loop.time() - began == pytest.approx(100 - EXPIRING_SECONDS, abs=1.0)
        assert [json.loads(each.data) for each in sink.all if each.type == "realtime.expiring"] == [{"seconds": 30}]
        await sink.until(lambda: sink.ended, seconds=200.0)
        assert loop.time() - began == pytest.approx(100, abs=1.0)
        assert sink.closing == "token-expired"
        session.close()


@virtual_time
async def test_a_stream_without_room_is_warned_later() -> None:
    async with Hub(MemoryLog()) as hub:
        session, sink = await opened(make_sessions(hub), Identity("u1", expires_at=time.time() + 50))
        await pass_time(10)
        sink.full = True
        await publish(hub.transport, 1)
        await pass_time(15)
        assert all(each.type != "realtime.expiring" for each in sink.all)
        sink.release()
        await sink.until(lambda: any(each.type == "realtime.expiring" for each in sink.all), seconds=5.0)
        session.close()


@virtual_time
async def test_no_warning_comes_after_an_earlier_end() -> None:
    async with Hub(MemoryLog()) as hub:
        session, sink = await opened(make_sessions(hub), Identity("u1", expires_at=time.time() + 100), seconds=20.0)
        await sink.until(lambda: sink.ended, seconds=50.0)
        assert sink.order == ["realtime.ready", "realtime.closing"]
        assert sink.closing == "max-age"
        session.close()


@virtual_time
async def test_a_token_within_its_leeway_ends_with_the_leeway() -> None:
    async with Hub(MemoryLog()) as hub:
        sessions = make_sessions(hub, leeway=60.0)
        session, sink = await opened(sessions, Identity("u1", expires_at=time.time() - 50))
        began = asyncio.get_running_loop().time()
        await sink.until(lambda: sink.ended, seconds=50.0)
        assert asyncio.get_running_loop().time() - began == pytest.approx(10, abs=1.0)
        session.close()


@virtual_time
async def test_a_closed_session_has_no_timer() -> None:
    async with Hub(MemoryLog()) as hub:
        session, sink = await opened(make_sessions(hub), seconds=10.0)
        session.close()
        await pass_time(20)
        assert sink.order == ["realtime.ready"]


@virtual_time
async def test_a_long_poll_ends_with_the_first_event() -> None:
    async with Hub(MemoryLog()) as hub:
        polling = asyncio.create_task(make_sessions(hub).read_page(Identity("u1"), POLL))
        await pass_time(5)
        await hub.dispatch([event("first")])
        page = json.loads((await polling).body())
        assert [each["data"] for each in page["events"]] == ["first"]
        assert hub.snapshot().readers == {}


@virtual_time
async def test_a_long_poll_ends_with_its_token() -> None:
    async with Hub(MemoryLog()) as hub:
        began = asyncio.get_running_loop().time()
        page = await make_sessions(hub).read_page(Identity("u1", expires_at=time.time() + 5), POLL)
        assert asyncio.get_running_loop().time() - began == pytest.approx(5, abs=1.0)
        assert page.cursor is not None
        assert b"expiring" not in page.body()


class SilentReplay(StagedLog):
    """A log that answers reads of its heads, and no read of its records."""

    async def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        await pass_time(1_000)
        yield Gap("trimmed", ALL, None)


@pytest.mark.parametrize("is_revoked", [False, True], ids=["draining", "revoked"])
@virtual_time
async def test_a_poll_that_ends_before_it_read_is_an_error(is_revoked: bool) -> None:
    """A page without a cursor would lose the client's place."""
    log = SilentReplay(MemoryLog())
    await publish(log, 1)
    async with Hub(log, revocations=Revocations(log, 1e9)) as hub:
        query = parse_subscribe_request(b"wait=20&from=earliest", {})
        polling = asyncio.create_task(make_sessions(hub).read_page(Identity("u1", issued_at=1.0), query))
        await pass_time(1)
        if is_revoked:
            await hub.dispatch([Revocation("u1", 2.0).event()])
        else:
            hub.drain()
        with pytest.raises(Unauthorized if is_revoked else Unavailable):
            await polling


@virtual_time
async def test_a_page_that_takes_too_long_is_unavailable() -> None:
    log = StagedLog(MemoryLog())
    async with Hub(log) as hub:
        log.hold_heads()
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable, match="in time"):
            await make_sessions(hub).read_page(Identity("u1"), QUERY)
        assert asyncio.get_running_loop().time() - began == pytest.approx(PAGE_SECONDS, abs=0.1)
