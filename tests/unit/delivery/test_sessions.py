"""Sessions: counted in the limits, ended by their time or their token, and closed by one exit."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from tidewire.delivery.hub import DRAINING, Hub
from tidewire.delivery.limits import Connections
from tidewire.delivery.revocations import Revocation, Revocations
from tidewire.delivery.sessions import EXPIRING_SECONDS, PAGE_SECONDS, Session, Sessions
from tidewire.errors import Forbidden, TooManyRequests, TransportUnavailable, Unauthorized, Unavailable
from tidewire.model.cursor import Cursor
from tidewire.model.partitions import ALL
from tidewire.model.permissions import AllowedTypes
from tidewire.model.record import Gap, Record
from tidewire.protocol.sse import DATA
from tidewire.protocol.subscribe_request import SubscribeRequest, parse_subscribe_request
from tidewire.security.tokens import Identity
from tidewire.settings.config import Settings
from tidewire.transports.memory import MemoryLog

from tests.contract.acts import event, publish
from tests.contract.staged import StagedLog
from tests.contract.stores import MemoryStore
from tests.support.clocks import pass_time, virtual_time
from tests.support.sinks import RecordingSink
from tests.support.unavailable_log import Instance

QUERY = parse_subscribe_request(b"", {})
POLL = parse_subscribe_request(b"wait=20", {})


def make_sessions(hub: Hub, maximum: int = 0, per_user: int = 0, leeway: float = 0.0) -> Sessions:
    return Sessions(hub, Connections(maximum, per_user), leeway=leeway)


def expiring(sink: RecordingSink) -> list[dict[str, int]]:
    """The warnings before the token's end."""
    return [json.loads(each.data) for each in sink.all if each.type == "realtime.expiring"]


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
    """The connection is counted before the log is read: each way out gives it back."""
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
        for _ in range(3):
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
        await sink.until(lambda: bool(expiring(sink)), seconds=200.0)
        assert loop.time() - began == pytest.approx(100 - EXPIRING_SECONDS, abs=1.0)
        await sink.until(lambda: sink.ended, seconds=200.0)
        assert loop.time() - began == pytest.approx(100, abs=1.0)
        assert sink.closing == "token-expired"
        assert expiring(sink) == [{"seconds": 30}], "once"
        session.close()


@virtual_time
async def test_a_stream_without_room_is_warned_later() -> None:
    async with Hub(MemoryLog()) as hub:
        session, sink = await opened(make_sessions(hub), Identity("u1", expires_at=time.time() + 50))
        await pass_time(10)
        sink.full = True
        await publish(hub.transport, 1)
        await pass_time(15)
        assert expiring(sink) == []
        sink.release()
        await sink.until(lambda: bool(expiring(sink)), seconds=5.0)
        session.close()


@virtual_time
async def test_no_warning_comes_after_an_earlier_end() -> None:
    async with Hub(MemoryLog()) as hub:
        session, sink = await opened(make_sessions(hub), Identity("u1", expires_at=time.time() + 100), seconds=20.0)
        await sink.until(lambda: sink.ended, seconds=50.0)
        assert sink.order == ["realtime.ready", "realtime.closing"]
        assert sink.closing == "max-age"
        session.close()


@pytest.mark.parametrize(
    ("left", "leeway", "seconds"),
    [
        (100.0, 60.0, 100.0),
        (0.5, 60.0, 0.5),
        (0.0, 60.0, 60.0),
        (-50.0, 60.0, 10.0),
        (-60.0, 60.0, 0.0),
        (-9.0, 0.0, 0.0),
    ],
)
@virtual_time
async def test_only_a_token_after_its_end_has_the_leeway(left: float, leeway: float, seconds: float) -> None:
    """It was accepted within the leeway; a token that is still valid gets no longer life from it."""
    async with Hub(MemoryLog()) as hub:
        sessions = make_sessions(hub, leeway=leeway)
        began = asyncio.get_running_loop().time()
        with patch("tidewire.delivery.sessions.time", SimpleNamespace(time=lambda: 1_000.0)):
            session = await sessions.open(Identity("u1", expires_at=1_000.0 + left), QUERY, DATA)
        sink = RecordingSink()
        session.start(sink)
        await sink.until(lambda: sink.ended, seconds=200.0)
        assert asyncio.get_running_loop().time() - began == pytest.approx(seconds, abs=0.1)
        assert sink.closing == "token-expired"
        session.close()


@virtual_time
async def test_a_stream_with_less_than_a_second_is_warned_too() -> None:
    async with Hub(MemoryLog()) as hub:
        session, sink = await opened(make_sessions(hub), Identity("u1", expires_at=time.time() + 0.9))
        await sink.until(lambda: sink.ended, seconds=5.0)
        assert expiring(sink) == [{"seconds": 1}]
        session.close()


@virtual_time
async def test_a_session_without_an_end_sets_no_timer() -> None:
    """An event loop need not accept a time that is infinite."""
    times: list[float] = []
    loop = asyncio.get_running_loop()
    call_at = loop.call_at

    def recorded(when: float, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
        times.append(when)
        return call_at(when, *arguments, **options)

    async with Hub(MemoryLog()) as hub:
        with patch.object(loop, "call_at", recorded):
            session, sink = await opened(make_sessions(hub))
        assert max(times) < 1_000.0
        await pass_time(3_600.0)
        assert not sink.ended
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


@pytest.mark.parametrize(
    ("ending", "error"),
    [
        ("draining", Unavailable(DRAINING)),
        ("revoked", Unauthorized("The token was revoked")),
        ("token-expired", Unauthorized("The token is not valid: it has expired")),
    ],
)
@virtual_time
async def test_a_poll_that_ends_before_it_read_is_an_error(ending: str, error: Unavailable | Unauthorized) -> None:
    """A page without a cursor would lose the client's place."""
    log = SilentReplay(MemoryLog())
    await publish(log, 1)
    async with Hub(log, revocations=Revocations(log, 1e9)) as hub:
        query = parse_subscribe_request(b"wait=20&from=earliest", {})
        expires_at = time.time() + 2 if ending == "token-expired" else None
        identity = Identity("u1", issued_at=1.0, expires_at=expires_at)
        polling = asyncio.create_task(make_sessions(hub).read_page(identity, query))
        await pass_time(1)
        if ending == "revoked":
            await hub.dispatch([Revocation("u1", 2.0).event()])
        elif ending == "draining":
            hub.drain()
        with pytest.raises((Unavailable, Unauthorized)) as caught:
            await polling
        assert (type(caught.value), str(caught.value)) == (type(error), str(error))


@virtual_time
async def test_a_page_that_takes_too_long_is_unavailable() -> None:
    log = StagedLog(MemoryLog())
    async with Hub(log) as hub:
        log.hold_heads()
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable, match=r"^The log did not answer in time$"):
            await make_sessions(hub).read_page(Identity("u1"), QUERY)
        assert asyncio.get_running_loop().time() - began == pytest.approx(PAGE_SECONDS, abs=0.1)


class RefusedReplay(StagedLog):
    """A log whose heads are known, and which refuses each read of its records."""

    async def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        nothing: tuple[Record, ...] = ()
        for item in nothing:
            yield item
        raise TransportUnavailable("not now")


@virtual_time
async def test_a_page_that_came_no_further_is_unavailable() -> None:
    """A 200 with the cursor of the request would look like progress, and the client would ask again at once."""
    log = RefusedReplay(MemoryLog())
    start = await log.head((ALL,))
    await publish(log, 1)
    async with Hub(log) as hub:
        query = parse_subscribe_request(b"", {"last-event-id": start.encode()})
        with pytest.raises(Unavailable, match="in time"):
            await make_sessions(hub).read_page(Identity("u1"), query)


@pytest.mark.parametrize("wait", ["0", "20"])
@virtual_time
async def test_a_page_is_in_the_requested_format(wait: str) -> None:
    log = MemoryLog()
    await publish(log, 1)
    async with Hub(log) as hub:
        for format, names in (("data", {"data", "id", "time", "type"}), ("cloudevents", {"specversion", "subject"})):
            query = parse_subscribe_request(f"from=earliest&format={format}&wait={wait}".encode(), {})
            page = json.loads((await make_sessions(hub).read_page(Identity("u1"), query)).body())
            (one,) = page["events"]
            assert one["data"] == 1
            assert one.keys() == names if format == "data" else one["specversion"] == "1.0"


@pytest.mark.parametrize("wait", ["0", "20"])
@virtual_time
async def test_a_page_holds_only_what_the_request_and_token_allow(wait: str) -> None:
    log = MemoryLog()
    await log.publish([event(type, type=type, users=users) for type in "abc" for users in (None, ["u1"], ["u2"])])
    async with Hub(log) as hub:
        query = parse_subscribe_request(f"from=earliest&types=a,b&wait={wait}".encode(), {})
        page = await make_sessions(hub).read_page(Identity("u1", AllowedTypes.parse(["b", "c", "a"])), query)
        assert [each["data"] for each in json.loads(page.body())["events"]] == ["a", "a", "b", "b"]


@pytest.mark.parametrize("wait", ["0", "20"])
@virtual_time
async def test_a_page_is_refused_to_a_revoked_token(wait: str) -> None:
    log = MemoryLog()
    async with Hub(log, revocations=Revocations(log, 1e10)) as hub:
        await hub.dispatch([Revocation("u1", 100.0).event(), event(1)])
        query = parse_subscribe_request(f"from=earliest&wait={wait}".encode(), {})
        with pytest.raises(Unauthorized, match="revoked"):
            await make_sessions(hub).read_page(Identity("u1", issued_at=99.0), query)
        page = await make_sessions(hub).read_page(Identity("u1", issued_at=100.0), query)
        assert len(json.loads(page.body())["events"]) == 1


@virtual_time
async def test_a_poll_without_events_answers_after_its_wait() -> None:
    """The cursor alone is a response: from there the next poll goes on."""
    async with Hub(MemoryLog()) as hub:
        began = asyncio.get_running_loop().time()
        page = await make_sessions(hub).read_page(Identity("u1"), parse_subscribe_request(b"wait=5", {}))
        assert asyncio.get_running_loop().time() - began == pytest.approx(5.0, abs=0.1)
        body = json.loads(page.body())
        assert (body["events"], body["gap"]) == ([], None)
        assert Cursor.parse(body["cursor"]) is not None
        assert hub.snapshot().readers == {}


@virtual_time
async def test_the_settings_decide_about_limits_and_leeway() -> None:
    async with Hub(MemoryLog()) as hub:
        settings = Settings(max_connections=3, max_user_connections=2, jwt_leeway=60.0)
        sessions = Sessions.from_settings(hub, settings)
        late = Identity("u1", expires_at=time.time() - 50)
        both = [await sessions.open(late, QUERY, DATA) for _ in range(2)]
        with pytest.raises(TooManyRequests, match="user"):
            await sessions.open(late, QUERY, DATA)
        both.append(await sessions.open(Identity("u2"), QUERY, DATA))
        with pytest.raises(TooManyRequests, match="instance"):
            await sessions.open(Identity("u3"), QUERY, DATA)
        await pass_time(5)
        assert [session.subscriber.ending for session in both] == [None, None, None]
        await pass_time(10)
        assert [session.subscriber.ending for session in both] == ["token-expired", "token-expired", None]
        for session in both:
            session.close()


@virtual_time
async def test_only_a_session_that_may_waits_for_an_absent_log() -> None:
    """Behind a fallback: a stream receives early what is published here; whoever may not wait is refused."""
    async with Instance(MemoryStore()) as instance:
        instance.log.leave()
        sessions = make_sessions(instance.hub, maximum=1)
        with pytest.raises(TransportUnavailable):
            await sessions.open(Identity("u1"), QUERY, DATA)
        session = await sessions.open(Identity("u1"), QUERY, DATA, wait_for_log=True)
        sink = RecordingSink()
        session.start(sink)
        await instance.hub.dispatch([event("early")])
        await sink.has("early")
        instance.log.come_back()
        await sink.ready()
        session.close()
