"""Events with audiences of all kinds, and subscribers that check what they get."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from tidewire.model.cursor import Cursor

from tests.support.clients import Requests, open_stream, receipts
from tests.support.processes import Instance
from tests.support.redis_records import StoredEvent
from tests.support.sse_decoder import SseEvent
from tests.support.waiting import Growing

USERS = [f"user-{n}" for n in range(20)]
TYPES = ["order", "chat", "metric", "note"]
MEAN_CUT = 20_000  # bytes per connection: each subscriber resumes about fifteen times
STEADY = 5  # subscribers that are cut only by faults of the instances
LARGEST_BATCH = 40
FOR_SOME = 0.85  # of the events are for some users, the others for everyone
FAULT_SECONDS = 60.0  # for one fault; they take a few
AWAY = 0.05  # seconds before a refused client tries the other instance


class Progress(Growing):
    """The acknowledged events, and the share of all events that may be published."""

    def __init__(self, events: int) -> None:
        super().__init__()
        self.receipts: dict[str, Mapping[str, Any]] = {}
        self.times: dict[str, float] = {}  # of the receipts
        self.refused = 0
        self.events = events
        self._allowed = 0.0

    def allow(self, share: float) -> None:
        self._allowed = share
        self.grow()

    def keep(self, accepted: Iterable[Mapping[str, Any]]) -> None:
        self.receipts.update((receipt["id"], receipt) for receipt in accepted)
        self.times.update((receipt["id"], time.monotonic()) for receipt in accepted)
        self.grow()

    async def reaches(self, share: float) -> None:
        await self.until(lambda: len(self.receipts) >= share * self.events, FAULT_SECONDS)

    async def may_go_on(self) -> None:
        await self.until(lambda: len(self.receipts) < self._allowed * self.events, FAULT_SECONDS)

    def __str__(self) -> str:
        return f"{len(self.receipts)} receipts of {self.events}, allowed: {self._allowed}"


@dataclass
class Subscriber:
    """A client that changes between the instances and resumes from its last id."""

    name: str
    user: str | None
    types: frozenset[str] | None
    steady: bool
    since: str
    rng: random.Random
    instances: Sequence[Instance]
    turn: int
    owed: set[str] = field(default_factory=set)  # ids that it has yet to receive
    marks: int = 0  # the last events that it has yet to receive
    received: list[Mapping[str, Any]] = field(default_factory=list)
    control: Counter[str] = field(default_factory=Counter)
    closings: list[str] = field(default_factory=list)
    connections: int = 0
    gap_at: float = 0.0  # the last one
    primed: asyncio.Event = field(default_factory=asyncio.Event)

    def matches(self, event: Mapping[str, Any]) -> bool:
        """Whether it should get this event, decided without the product's code."""
        if self.types is not None and event["type"] not in self.types:
            return False
        return "userIds" not in event or self.user in event["userIds"]

    async def run(self) -> None:
        """Follow until each mark has arrived, over any number of connections."""
        cursor = ""
        while self.marks:
            self.turn += 1
            try:
                cursor = await self._follow_once(self.instances[self.turn % len(self.instances)], cursor)
            except OSError:
                await asyncio.sleep(AWAY)

    async def _follow_once(self, instance: Instance, cursor: str) -> str:
        query = {"format": "data", "from": self.since}
        if self.user is not None:
            query["userId"] = self.user
        if self.types is not None:
            query["types"] = ",".join(sorted(self.types))
        cut_after = None if self.steady else 1 + int(self.rng.expovariate(1 / MEAN_CUT))
        async with open_stream(instance.port, query, last_event_id=cursor, cut_after=cut_after) as stream:
            self.connections += 1
            try:
                async for events in stream.events():
                    for dispatched in events:
                        self._take(dispatched)
                    if not self.marks:
                        break
            except ConnectionError:
                pass  # the next connection resumes after what has arrived
            if stream.status == 503:
                await asyncio.sleep(AWAY)
            else:
                assert stream.status in (None, 200), f"{self.name}: {stream.status}"
            return stream.decoder.last_event_id

    def _take(self, dispatched: SseEvent) -> None:
        if dispatched.type.startswith("realtime."):
            self.control[dispatched.type] += 1
            if dispatched.type == "realtime.ready":
                self.primed.set()
            elif dispatched.type == "realtime.gap":
                self.gap_at = time.monotonic()
            elif dispatched.type == "realtime.closing":
                self.closings.append(json.loads(dispatched.data)["reason"])
            return
        data = json.loads(dispatched.data)
        assert dispatched.type == data["type"]
        if self.control["realtime.gap"] and data in self.received:
            return  # after a gap, a partition begins again at its oldest record
        assert data["id"] in self.owed, f"{self.name} saw {data['id']} twice, or it is not for {self.user}"
        self.owed.remove(data["id"])
        self.received.append(data)
        self.marks -= data["id"].startswith("mark-")


def make_events(count: int, rng: random.Random) -> list[dict[str, Any]]:
    events = []
    for number in range(count):
        draft: dict[str, Any] = {"id": f"event-{number}", "type": rng.choice(TYPES)}
        if rng.random() < FOR_SOME:
            draft["userIds"] = rng.sample(USERS, rng.choice([1, 1, 1, 2, 5]))
        events.append(with_data(draft, rng.choice(["", "", "x" * 200, "é\n\r\u2028"])))
    return events


def make_marks() -> list[dict[str, Any]]:
    """Return the last events: one per type for everyone, and one per type and user."""
    drafts: list[dict[str, Any]] = []
    for type in TYPES:
        drafts.append({"id": f"mark-{type}", "type": type})
        drafts += [{"id": f"mark-{type}-{user}", "type": type, "userIds": [user]} for user in USERS]
    return [with_data(draft, "") for draft in drafts]


def with_data(draft: dict[str, Any], text: str) -> dict[str, Any]:
    return {**draft, "data": {"id": draft["id"], "type": draft["type"], "text": text}}


def make_batches(events: Sequence[dict[str, Any]], rng: random.Random) -> list[list[dict[str, Any]]]:
    """Return the events in batches of random sizes."""
    batches, start = [], 0
    while start < len(events):
        size = rng.choice([1, 1, 1, 2, 10, LARGEST_BATCH])
        batches.append(list(events[start : start + size]))
        start += size
    return batches


async def publish_until_accepted(
    instances: Sequence[Instance],
    batches: Iterable[Sequence[Mapping[str, Any]]],
    progress: Progress,
    rng: random.Random,
) -> None:
    """Publish each batch until it is accepted, always with the same ids."""
    async with AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(Requests(instance)) for instance in instances]
        turn = rng.randrange(len(lines))
        for batch in batches:
            await progress.may_go_on()
            # With line ends between its tokens, `data` is several data: lines of one frame.
            text = json.dumps(batch if len(batch) > 1 else batch[0], indent=rng.choice([None, None, 1]))
            while (accepted := await _try_to_publish(lines[turn % len(lines)], text)) is None:
                progress.refused += 1
                turn += 1
                await asyncio.sleep(rng.uniform(0, AWAY))
            assert [receipt["id"] for receipt in accepted] == [sent["id"] for sent in batch]
            progress.keep(accepted)


async def _try_to_publish(line: Requests, text: str) -> Sequence[Mapping[str, Any]] | None:
    """Return the receipts, or None if the publish must be retried."""
    try:
        answer = await line.post(text)
    except (OSError, EOFError):
        return None
    if answer.status == 503:
        answer.assert_unavailable()
        return None
    return receipts(answer)


def make_subscriber(number: int, rng: random.Random, instances: Sequence[Instance]) -> Subscriber:
    """Return a subscriber of random tastes."""
    return Subscriber(
        name=f"subscriber {number}",
        user=rng.choice(USERS) if number % 5 else None,
        types=frozenset(rng.sample(TYPES, rng.choice([1, 2, 3]))) if number % 3 else None,
        since=rng.choice(["now", "earliest"]),
        steady=number < STEADY,
        rng=random.Random(rng.random()),
        instances=instances,
        turn=number,
    )


def assert_whole(log: Mapping[str, Sequence[StoredEvent]], published: Iterable[Mapping[str, Any]]) -> None:
    """Each acknowledged event is in the log, once per partition, with contiguous offsets."""
    for partition, records in log.items():
        assert [record.offset for record in records] == list(range(1, len(records) + 1)), partition
        assert len({record.epoch for record in records}) == 1, partition
        assert max(Counter(record.event["id"] for record in records).values()) == 1, f"{partition} has one twice"
    kept = {record.event["id"] for records in log.values() for record in records}
    assert kept == {sent["id"] for sent in published}


def assert_receipts_fit(log: Mapping[str, Sequence[StoredEvent]], accepted: Mapping[str, Mapping[str, Any]]) -> None:
    """Each receipt has the position of its event, also after retries."""
    places: dict[str, dict[str, tuple[int, int]]] = {}
    for records in log.values():
        for record in records:
            places.setdefault(record.event["id"], {})[record.partition] = (record.epoch, record.offset)
    for id, receipt in accepted.items():
        cursor = Cursor.parse(receipt["cursor"])
        assert cursor is not None
        assert {name: at[:2] for name, at in cursor.positions.items()} == places[id], id


def assert_has_its_own(subscriber: Subscriber, log: Mapping[str, Sequence[StoredEvent]]) -> None:
    """It got exactly its events, unchanged, each once, and in the order of each partition."""
    expected = {
        partition: [record.event["data"] for record in records if subscriber.matches(record.event)]
        for partition, records in log.items()
    }
    assert not subscriber.owed, f"{subscriber.name} lost {subscriber.owed}"
    assert len(subscriber.received) == sum(map(len, expected.values()))
    for partition, events in expected.items():
        ids = {data["id"] for data in events}
        assert [data for data in subscriber.received if data["id"] in ids] == events, (subscriber.name, partition)
