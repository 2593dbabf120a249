"""POST /api/publish: the promises of a receipt."""

import asyncio
import json
import re
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from tidewire.delivery.hub import Hub
from tidewire.http import ops, publish
from tidewire.http.api import make_api
from tidewire.model.event import Event
from tidewire.settings.config import Settings
from tidewire.transports.base import Receipt
from tidewire.transports.memory import MemoryLog

from tests.support.api import TIMEOUT, Api, data_of, problem_of, ready_of, receipts_of, unique
from tests.support.tokens import PUBLISH_KEY, user_token

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def test_a_single_event_is_answered_with_an_id_and_arrives(any_api: Api) -> None:
    kind = unique()
    with any_api.stream(types=kind) as stream:
        assert stream.ready() == []
        [receipt] = any_api.publish({"type": kind, "data": {"id": 7}})
        event = stream.next()
    assert UUID7.fullmatch(receipt["id"])
    assert receipt["duplicate"] is False
    assert (event.type, json.loads(event.data)) == (kind, {"id": 7})


def test_a_batch_is_answered_and_arrives_in_its_order(any_api: Api) -> None:
    kind = unique()
    ids = [unique("id") for _ in range(100)]
    with any_api.stream(types=kind) as stream:
        stream.ready()
        receipts = any_api.publish(*({"type": kind, "data": n, "id": id} for n, id in enumerate(ids)))
        arrived = [stream.next() for _ in ids]
    assert [receipt["id"] for receipt in receipts] == ids
    assert data_of(arrived) == list(range(100))


def test_pipelined_requests_are_answered_in_order(api: Api) -> None:
    kind = unique()
    before = api.head()
    bodies = [json.dumps({"type": kind, "data": n, "id": f"{kind}-{n}"}).encode() for n in range(4)]
    ends = ["keep-alive"] * 3 + ["close"]
    with socket.create_connection(("127.0.0.1", api.instance.port), timeout=TIMEOUT) as connection:
        connection.sendall(
            b"".join(
                b"POST /api/publish HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
                b"Connection: %b\r\nContent-Length: %d\r\n\r\n%b" % (end.encode(), len(body), body)
                for body, end in zip(bodies, ends, strict=True)
            )
        )
        with connection.makefile("rb") as answers:
            received = answers.read().decode()
    assert re.findall(r"HTTP/1\.1 (\d+)", received) == ["202"] * 4
    assert re.findall(rf'"id":"({kind}-\d)"', received) == [f"{kind}-{n}" for n in range(4)]
    page = api.page(types=kind, last_event_id=before)
    assert [event["data"] for event in page["events"]] == [0, 1, 2, 3]


def test_a_batch_of_one_event_is_still_a_batch(api: Api) -> None:
    response = api.post(json.dumps([{"type": unique(), "data": None}]).encode())
    assert response.status_code == 202
    assert len(receipts_of(response)) == 1


def test_nothing_of_a_batch_is_appended_where_one_event_is_wrong(any_api: Api) -> None:
    before = any_api.head()
    batch = [{"type": unique(), "data": n} for n in range(9)] + [{"type": "two words", "data": 9}]
    problem_of(any_api.post(json.dumps(batch).encode()), 400)
    assert any_api.head() == before


def test_a_retry_appends_nothing_and_gets_the_first_cursor(any_api: Api) -> None:
    event = {"type": unique(), "data": 1, "id": unique("id")}
    [first] = any_api.publish(event)
    after = any_api.head()
    [second] = any_api.publish(event)
    assert second == {**first, "duplicate": True}
    assert any_api.head() == after


def test_an_id_that_stands_twice_in_one_batch_is_appended_once(any_api: Api) -> None:
    event = {"type": unique(), "data": 1, "id": unique("id")}
    first, second = any_api.publish(event, {**event, "data": 2})
    assert second == {**first, "duplicate": True}
    assert data_of_type(any_api, event["type"]) == [1]


@pytest.mark.parametrize("quoted", [False, True])
def test_the_idempotency_key_header_is_the_id_of_a_single_event(api: Api, quoted: bool) -> None:
    kind, key = unique(), unique("key")
    header = f'"{key}"' if quoted else key
    receipts = [api.publish({"type": kind, "data": n}, **{"idempotency-key": header})[0] for n in range(3)]
    assert [(receipt["id"], receipt["duplicate"]) for receipt in receipts] == [(key, False), (key, True), (key, True)]
    assert data_of_type(api, kind) == [0]


def test_the_idempotency_key_must_equal_the_id(api: Api) -> None:
    id = unique("id")
    event = {"type": unique(), "data": 1, "id": id}
    assert api.publish(event, **{"idempotency-key": id})[0]["id"] == id
    problem = problem_of(api.post(json.dumps(event).encode(), headers={"idempotency-key": "other"}), 400)
    assert problem["errors"][0]["pointer"] == "/id"


def test_concurrent_retries_append_one_event(any_api: Api) -> None:
    event = {"type": unique(), "data": 1, "id": unique("id")}
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda _: any_api.publish(event)[0], range(24)))
    assert [receipt["duplicate"] for receipt in receipts].count(False) == 1
    assert len({receipt["cursor"] for receipt in receipts}) == 1
    assert data_of_type(any_api, event["type"]) == [1]


def test_reading_after_a_receipt_s_cursor_misses_nothing(any_api: Api) -> None:
    kind = unique()
    receipts = any_api.publish(*({"type": kind, "data": n} for n in range(5)))
    for n, receipt in enumerate(receipts):
        page = any_api.page(types=kind, last_event_id=receipt["cursor"])
        assert [event["data"] for event in page["events"]] == list(range(n + 1, 5))
        assert page["gap"] is None
    with any_api.stream(types=kind, last_event_id=receipts[2]["cursor"]) as stream:
        assert data_of(stream.ready()) == [3, 4]
        any_api.publish({"type": kind, "data": 5})
        assert data_of([stream.next()]) == [5]


def test_a_duplicates_cursor_is_as_good_as_the_firsts(any_api: Api) -> None:
    kind, id = unique(), unique("id")
    any_api.publish({"type": kind, "data": 0, "id": id})
    any_api.publish({"type": kind, "data": 1})
    [again] = any_api.publish({"type": kind, "data": 0, "id": id})
    with any_api.stream(types=kind, last_event_id=again["cursor"]) as stream:
        assert ready_of(stream) == {"recovered": True, "replayed": 1}


def test_a_receipt_s_cursor_names_only_its_partition(sharded: Api) -> None:
    """A reader starts at the head of every other partition."""
    kind, user = unique(), unique("u")
    publisher = sharded.acting(key=PUBLISH_KEY)
    [receipt] = publisher.publish({"type": kind, "data": 0, "userIds": [user]})
    publisher.publish({"type": kind, "data": "in the partition for everyone"})
    publisher.publish({"type": kind, "data": 1, "userIds": [user]})
    page = sharded.acting(token=user_token(user)).page(types=kind, last_event_id=receipt["cursor"])
    assert [event["data"] for event in page["events"]] == [1]


def test_naming_a_user_twice_delivers_once(api: Api) -> None:
    kind, user = unique(), unique("u")
    with api.stream(types=kind, userId=user) as stream:
        stream.ready()
        api.publish({"type": kind, "data": 1, "userIds": [user, user]}, {"type": kind, "data": "sentinel"})
        assert data_of([stream.next(), stream.next()]) == [1, "sentinel"]


def test_the_limits_themselves_are_still_taken(api: Api) -> None:
    kind = unique("t" * 95)
    id = unique("i" * 223)
    users = [f"{n:0256d}" for n in range(1_000)]
    assert (len(kind), len(id)) == (128, 256)
    api.publish({"type": kind, "data": 1, "id": id, "userIds": users})
    largest = filled({"type": kind}, 256 * 1024)
    assert api.post(largest).status_code == 202
    quarter = filled({"type": kind}, 256 * 1024 - 2)
    whole = b"[%b]" % b",".join([quarter] * 4)
    assert api.post(whole.ljust(1024 * 1024)).status_code == 202


async def test_202_comes_only_once_the_log_holds_the_events() -> None:
    held = asyncio.Event()

    class SlowLog(MemoryLog):
        async def publish(self, events: Sequence[Event]) -> list[Receipt]:
            await held.wait()
            return await super().publish(events)

    settings = Settings()
    async with Hub(SlowLog()) as hub:
        app = make_api([*publish.routes(hub, settings), *ops.routes(hub, settings)], settings)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
            answer = asyncio.create_task(client.post("/api/publish", json={"type": "t", "data": 1}))
            for _ in range(5):
                assert (await client.get("/api/health/live")).status_code == 200
            assert not answer.done()
            held.set()
            assert (await answer).status_code == 202


def data_of_type(api: Api, kind: object) -> list[object]:
    """The data of all events of a type that the log holds."""
    return [event["data"] for event in api.page(types=str(kind), from_="earliest")["events"]]


def filled(event: dict[str, object], size: int) -> bytes:
    """The event as JSON of exactly this many bytes."""
    empty = len(json.dumps({**event, "data": ""}))
    return json.dumps({**event, "data": "x" * (size - empty)}).encode()
