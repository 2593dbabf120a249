"""JSON pages of a store that fell back to an older state: without a tail, only the cursor shows it."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from tidewire.delivery.hub import Hub
from tidewire.http.stream import StreamApp
from tidewire.model.partitions import Partitions
from tidewire.settings.config import Settings

from tests.contract.acts import event
from tests.contract.stores import LogStore
from tests.support.asgi_client import Request

SHARDS = Partitions(user_shards=8)
KEPT = ["kept 1", "kept 2", "kept 3"]
LOST = ["lost 4", "lost 5"]
GAP = {"reason": "epoch", "recovered": False}

waits = pytest.mark.parametrize("wait", [0, 20], ids=["plain", "long-poll"])


@dataclass
class Client:
    """A client that polls an instance without streams."""

    app: StreamApp
    wait: int
    cursor: str = ""

    async def poll(self, wait: int | None = None) -> tuple[list[str], dict[str, Any] | None]:
        """Return the data and the gap of the next page."""
        place = f"last_event_id={self.cursor}" if self.cursor else "from=earliest"
        query = f"userId=u1&wait={self.wait if wait is None else wait}&{place}"
        async with Request(self.app, query=query, accept="application/json") as request:
            await request.until(lambda: request.ended)
        page = json.loads(request.body)
        assert request.status == 200, page
        self.cursor = page["cursor"]
        return [item["data"] for item in page["events"]], page["gap"]

    async def poll_all(self) -> list[str]:
        """Return everything up to the head: data, and gaps as their reason in brackets."""
        read: list[str] = []
        while (page := await self.poll(0)) != ([], None):
            read += [*([f"<{page[1]['reason']}>"] if page[1] else []), *page[0]]
        return read


async def append(hub: Hub, *names: str) -> None:
    """Publish one event after the other for u1, in the shard of u1 if there are shards."""
    for name in names:
        await hub.dispatch([event(name, users=["u1"])])


@waits
@pytest.mark.parametrize("scheme", [Partitions(), SHARDS], ids=["one-partition", "shards"])
@pytest.mark.parametrize("counted_again", [0, 1, 2, 3])
async def test_a_page_past_the_head_is_a_gap(
    store: LogStore, counted_again: int, scheme: Partitions, wait: int
) -> None:
    """The cursor is ahead of the head, at it, or behind it after other records: a gap, then everything stored."""
    again = [f"other {number}" for number in range(4, 4 + counted_again)]
    async with Hub(store.open(scheme), scheme) as hub, Hub(store.open(scheme), scheme) as elsewhere:
        client = Client(StreamApp(hub, Settings()), wait)
        await append(elsewhere, *KEPT)
        assert await client.poll_all() == KEPT
        fall_back = await store.back_up()
        await append(elsewhere, *LOST)
        assert await client.poll() == (LOST, None)
        await fall_back()
        await append(elsewhere, *again)
        assert await client.poll() == ([*KEPT, *again], GAP)
        await append(elsewhere, "after")
        assert await client.poll() == (["after"], None), "a resume from the gap has no second gap"


@waits
async def test_a_page_after_a_stored_position_has_no_gap(store: LogStore, wait: int) -> None:
    """The store lost records that the client had not read: the cursor cannot show it, and only new records follow."""
    async with Hub(store.open()) as hub, Hub(store.open()) as elsewhere:
        client = Client(StreamApp(hub, Settings()), wait)
        await append(elsewhere, *KEPT)
        assert await client.poll_all() == KEPT
        fall_back = await store.back_up()
        await append(elsewhere, *LOST)
        await fall_back()
        await append(elsewhere, "other 4")
        assert await client.poll() == (["other 4"], None)


async def test_shared_pages_hide_no_loss(store: LogStore) -> None:
    """A page that another client read has the lost records, and this process keeps it for a moment.

    A client served from it gets records that the store has lost since, and then the gap.
    """
    async with Hub(store.open()) as hub, Hub(store.open()) as elsewhere:
        app = StreamApp(hub, Settings())
        first, second = Client(app, 0), Client(app, 0)
        await append(elsewhere, *KEPT)
        await first.poll_all()
        second.cursor = first.cursor
        fall_back = await store.back_up()
        await append(elsewhere, *LOST)
        assert await first.poll_all() == LOST
        await fall_back()
        again = ["other 4", "other 5", "other 6"]
        await append(elsewhere, *again)
        assert await second.poll_all() in (again, [*LOST, "<epoch>", *KEPT, *again])
        assert await first.poll_all() == ["<epoch>", *KEPT, *again]
