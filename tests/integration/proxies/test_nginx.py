"""A proxy between a browser and the process does not delay events, change them, or keep dead connections open."""

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

import httpx
import pytest

from tests.support.processes import Instance, wait_until
from tests.support.sse_decoder import SseDecoder, SseEvent

DEADLINE = 10.0
IDLE_CLIENTS = 24
IDLE_SECONDS = 4.99  # around the former time-out of 5 s


@contextmanager
def follow(client: httpx.Client, cursor: str = "") -> Iterator[Iterator[SseEvent]]:
    """The events of a stream as browsers take it, from this cursor; the end of the block drops the connection."""
    headers = {"accept": "text/event-stream", "accept-encoding": "gzip, br"}
    if cursor:
        headers["last-event-id"] = cursor
    with client.stream("GET", "/api/events", headers=headers) as response:
        assert response.status_code == 200
        assert "content-encoding" not in response.headers
        decoder = SseDecoder(cursor)
        yield (event for chunk in response.iter_raw() for event in decoder.feed(chunk))


def publish(client: httpx.Client, number: int) -> None:
    assert client.post("/api/publish", json={"type": "counted", "data": number}).status_code == 202


def streams(instance: Instance) -> float:
    text = httpx.get(f"{instance.url}/api/metrics").text
    return sum(map(float, re.findall(r"^realtime_subscribers\{.*\} (\S+)$", text, re.MULTILINE)))


def test_each_event_comes_before_the_next_one_is_published(client: httpx.Client) -> None:
    with follow(client) as events:
        assert next(events).type == "realtime.ready"
        for number in range(10):
            publish(client, number)
            assert json.loads(next(events).data) == number


def test_a_dropped_stream_resumes_after_its_last_event(client: httpx.Client) -> None:
    with follow(client) as events:
        cursor = next(events).last_event_id
    for number in range(5):
        publish(client, number)
        with follow(client, cursor) as events:
            event = next(events)
            assert json.loads(event.data) == number
            assert json.loads(next(events).data) == {"recovered": True, "replayed": 1}
        cursor = event.last_event_id


def test_a_browser_that_leaves_is_noticed_by_the_process_at_once(
    connect: Callable[[], httpx.Client], instance: Instance
) -> None:
    # With its connection: httpx does not reset a stream that it reads no further on HTTP/2, as browsers do.
    with connect() as browser, follow(browser) as events:
        assert next(events).type == "realtime.ready"
        assert streams(instance) == 1
    wait_until(lambda: streams(instance) == 0, DEADLINE)


def test_an_oversized_body_is_refused_by_us_in_json(client: httpx.Client) -> None:
    """The proxy forwards it, so that the answer is a problem document and not the proxy's HTML page."""
    response = client.post("/api/publish", content=b" " * 1_100_000, headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"


def status_of(client: httpx.Client) -> int:
    return client.post("/api/publish", json={"type": "idle", "data": 1}).status_code


# The idle connection is the one between nginx and the process: HTTP/1.1, whatever the client uses.
@pytest.mark.parametrize("connect", ["HTTP/2", pytest.param("HTTP/1.1", marks=pytest.mark.full)], indirect=True)
def test_a_post_after_some_idleness_is_not_lost(connect: Callable[[], httpx.Client]) -> None:
    """The process closed idle connections after 5 s, nginx keeps its own for 60 s: 3 of 10 such posts were 502."""
    at_once = Barrier(IDLE_CLIENTS)

    def post_twice() -> list[int]:
        with connect() as client:
            at_once.wait(DEADLINE)
            first = status_of(client)
            time.sleep(IDLE_SECONDS)
            at_once.wait(DEADLINE)
            return [first, status_of(client)]

    with ThreadPoolExecutor(IDLE_CLIENTS) as pool:
        statuses = [status for pair in pool.map(lambda _: post_twice(), range(IDLE_CLIENTS)) for status in pair]
    assert statuses == [202] * 2 * IDLE_CLIENTS
