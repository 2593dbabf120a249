"""A page of a slow log: it ends in time with the records read so far, and the next page continues after them."""

import json
from typing import Any
from unittest.mock import patch

from tidewire.delivery.hub import Hub
from tidewire.delivery.revocations import Revocations
from tidewire.http.stream import StreamApp
from tidewire.settings.config import Settings
from tidewire.transports import log_base
from tidewire.transports.memory import MemoryLog

from tests.contract.acts import event
from tests.support.asgi_client import Request
from tests.support.clocks import pass_time, virtual_time

PAGE = 5  # records of one read
TOTAL = 40


class SlowLog(MemoryLog):
    """A log that takes `seconds` for each read."""

    seconds = 0.0

    def __init__(self) -> None:
        super().__init__(pause=self._wait)

    async def _wait(self) -> None:
        await pass_time(self.seconds)


async def ask(app: StreamApp, query: str) -> tuple[int, dict[str, Any]]:
    """The status and body of one page."""
    async with Request(app, query=query, accept="application/json") as request:
        await request.until(lambda: request.ended, seconds=60.0)
        return request.status, json.loads(request.body)


async def fill(log: MemoryLog, type: str = "t") -> None:
    await log.publish([event(number, type=type) for number in range(TOTAL)])


@virtual_time
async def test_a_slow_page_returns_the_records_read_so_far() -> None:
    """It was a 503, and the next try began at the same place: such a client came no further for ever."""
    log = SlowLog()
    await fill(log)
    log.seconds = 6.0
    with patch.object(log_base, "PAGE", PAGE):
        async with Hub(log) as hub:
            app, query, received = StreamApp(hub, Settings()), "from=earliest", []
            for _ in range(20):
                status, page = await ask(app, query)
                assert status == 200
                received += [item["data"] for item in page["events"]]
                query = f"last_event_id={page['cursor']}"
                if page.get("complete", True):
                    break
                assert page["gap"] is None
    assert received == list(range(TOTAL))


@virtual_time
async def test_a_slow_page_moves_past_events_for_others() -> None:
    log = SlowLog()
    await fill(log, "other")
    await log.publish([event("mine", type="mine")])
    log.seconds = 6.0
    with patch.object(log_base, "PAGE", PAGE):
        async with Hub(log) as hub:
            app, query, pages = StreamApp(hub, Settings()), "types=mine&from=earliest", 0
            found: list[Any] = []
            while not found:
                status, page = await ask(app, query)
                assert status == 200
                found, pages = page["events"], pages + 1
                query = f"types=mine&last_event_id={page['cursor']}"
                assert pages < 20
    assert pages > 1


@virtual_time
async def test_a_page_that_read_nothing_is_503() -> None:
    """An empty page would say that there is nothing after the cursor."""
    log = SlowLog()
    await fill(log)
    async with Hub(log) as hub:
        app = StreamApp(hub, Settings())
        _, page = await ask(app, "from=earliest")
        await fill(log)
        log.seconds = 30.0
        status, problem = await ask(app, f"last_event_id={page['cursor']}")
    assert status == 503
    assert "in time" in problem["detail"]


@virtual_time
async def test_a_page_is_withheld_while_revocations_are_unknown() -> None:
    """Only the page's own partition answers: it is unknown whether its reader's token was revoked."""

    class SilentAboutRevocations(SlowLog):
        async def head(self, partitions: Any) -> Any:
            if "realtime.revocations" in partitions:
                await pass_time(100.0)
            return await super().head(partitions)

    log = SilentAboutRevocations()
    await fill(log)
    async with Hub(log, revocations=Revocations(log, 3600.0)) as hub:
        status, body = await ask(StreamApp(hub, Settings()), "from=earliest")
    assert status == 503
    assert "events" not in body
