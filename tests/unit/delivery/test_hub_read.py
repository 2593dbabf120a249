"""The one read of a page: what the log holds, up to one head, without a tail."""

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from tidewire.delivery.hub import Hub
from tidewire.delivery.revocations import Revocations
from tidewire.errors import TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position, Start
from tidewire.model.partitions import ALL, Partitions
from tidewire.model.record import Gap, Record
from tidewire.protocol.json_page import DATA_PAGE, Page
from tidewire.protocol.sse import DATA
from tidewire.transports.base import Retention
from tidewire.transports.memory import MemoryLog

from tests.contract.acts import event, publish
from tests.contract.staged import StagedLog
from tests.contract.stores import CarrierStore, MemoryStore, yield_once
from tests.support.clocks import virtual_time
from tests.support.sinks import RecordingSink


async def page_of(hub: Hub, start: Start, interest: Interest = Interest()) -> dict[str, Any]:
    """Read a page as the HTTP layer does."""
    page = Page(start.cursor)
    await hub.read(interest, start, DATA_PAGE, page)
    body: dict[str, Any] = json.loads(page.body())
    return {"data": [each["data"] for each in body["events"]], "gap": body["gap"], "cursor": body["cursor"]}


@virtual_time
async def test_a_read_writes_what_the_log_holds_and_ready() -> None:
    async with Hub(MemoryLog(pause=yield_once)) as hub:
        await hub.dispatch([event(1), event(2, users=["u2"]), event(3)])
        sink = RecordingSink()
        await hub.read(Interest("u1"), Start(since="earliest"), DATA, sink)
        assert sink.order == [1, 3, "realtime.ready"]
        assert await sink.ready() == {"recovered": True, "replayed": 2}
        place = Cursor.parse(sink.cursor)
        assert place is not None
        assert place.positions[ALL].offset == 3
        assert hub.snapshot().readers == {}
        assert hub.stats.replays == 1


@virtual_time
async def test_a_read_announces_a_gap_first() -> None:
    async with Hub(MemoryLog(retention=Retention(events=2), pause=yield_once)) as hub:
        await hub.dispatch([event(1), event(2), event(3)])
        for cursor, reason in (("nonsense", "invalid"),):
            sink = RecordingSink()
            await hub.read(Interest(), Start(cursor), DATA, sink)
            assert sink.order == ["realtime.gap", 2, 3, "realtime.ready"]
            assert sink.gaps == [reason]
            assert await sink.ready() == {"recovered": False, "replayed": 2}
        assert hub.stats.gaps == {"invalid": 1}
        assert await page_of(hub, Start(since="earliest")) | {"cursor": ""} == {
            "data": [2, 3],
            "gap": None,
            "cursor": "",
        }


@virtual_time
async def test_a_read_without_a_log_says_so() -> None:
    carrier = CarrierStore().open()
    async with Hub(carrier, revocations=Revocations(carrier, 60.0)) as hub:
        for start, expected in ((Start(), []), (Start(since="earliest"), ["no-log"]), (Start("1.0"), ["no-log"])):
            sink = RecordingSink()
            await hub.read(Interest(), start, DATA, sink)
            assert sink.gaps == expected
            assert await sink.ready() == {"recovered": not expected, "replayed": 0}


@virtual_time
async def test_a_full_page_ends_the_read() -> None:
    async with Hub(MemoryLog(pause=yield_once)) as hub:
        await publish(hub.transport, *range(700))
        first = await page_of(hub, Start(since="earliest"))
        second = await page_of(hub, Start(first["cursor"]))
        third = await page_of(hub, Start(second["cursor"]))
    assert first["data"] == list(range(500))
    assert second["data"] == list(range(500, 700))
    assert third == {"data": [], "gap": None, "cursor": second["cursor"]}


class Interrupted(StagedLog):
    """A log that breaks off a read after one item, once."""

    breaks = 1

    async def replay_pages(self, after: Cursor, until: Cursor) -> AsyncGenerator[Sequence[Record | Gap]]:
        async for page in super().replay_pages(after, until):
            yield page
            if self.breaks:
                self.breaks -= 1
                raise TransportUnavailable("broken off")


@virtual_time
async def test_an_interrupted_read_goes_on_up_to_the_new_head() -> None:
    log = Interrupted(MemoryLog(pause=yield_once))
    async with Hub(log) as hub:
        await hub.dispatch([event(1), event(2)])
        heads_read = log.heads_read
        page = await page_of(hub, Start(since="earliest"))
        assert page["data"] == [1, 2]
        assert log.heads_read == heads_read + 2


@virtual_time
async def test_a_read_goes_up_to_the_head_of_its_begin() -> None:
    """The heads cost one request; what is published later belongs to the next page."""

    class Growing(StagedLog):
        async def replay_pages(self, after: Cursor, until: Cursor) -> AsyncGenerator[Sequence[Record | Gap]]:
            await publish(self._log, "later")
            async for page in super().replay_pages(after, until):
                yield page

    log = Growing(MemoryLog(pause=yield_once))
    async with Hub(log) as hub:
        await hub.dispatch([event(1)])
        heads_read = log.heads_read
        assert (await page_of(hub, Start(since="earliest")))["data"] == [1]
        assert log.heads_read == heads_read + 1


@virtual_time
async def test_a_read_knows_a_scheme_that_another_process_uses() -> None:
    """The first read of this process finds out, and reads the partitions of both."""
    store = MemoryStore()
    other = Partitions(frozenset({"a"}), user_shards=2)
    async with Hub(store.open(other), other) as there, Hub(store.open()) as here:
        await there.dispatch([event(1, type="a"), event(2, type="a", users=["u1"]), event(3, users=["u2"])])
        page = await page_of(here, Start(since="earliest"), Interest("u1"))
        assert page["data"] == [1, 2]
        cursor = Cursor.parse(page["cursor"])
        assert cursor is not None
        assert len(cursor.positions) > 1


@virtual_time
async def test_the_cursor_of_a_read_has_only_partitions_in_use() -> None:
    """Those of another scheme are read to their end once more, and then left out."""
    scheme = Partitions(frozenset({"a"}))
    async with Hub(MemoryLog(scheme, pause=yield_once), scheme) as hub:
        await hub.dispatch([event(1, type="a"), event(2)])
        heads = (await hub.transport.head((ALL, "a"))).positions  # type: ignore[attr-defined]  # a log
        start = Cursor({ALL: heads[ALL], "a": Position(heads["a"].epoch, 0, "", heads["a"].time)})
        sink = RecordingSink()
        await hub.read(Interest(), Start(start.encode()), DATA, sink)
        assert sink.data == [1]
        only_all = Cursor({ALL: heads[ALL], "a:u0": heads["a"]._replace(offset=0)}).encode()
        sink = RecordingSink()
        await hub.read(Interest("u1"), Start(only_all), DATA, sink)
        last = Cursor.parse(sink.cursor)
        assert last is not None
        assert last.positions.keys() == {ALL, "a"}
