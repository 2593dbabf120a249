"""The end of a stream: it names its reason, its last id stays valid, and the next stream loses nothing."""

import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.api import TIMEOUT, Api, data_of, problem_of, unique
from tests.support.processes import MakeInstance
from tests.support.sse_decoder import SseEvent
from tests.support.tokens import PUBLISH_KEY, user_token


def reason_of(event: SseEvent) -> str:
    assert event.type == "realtime.closing"
    data = json.loads(event.data)
    assert list(data) == ["reason"]
    return str(data["reason"])


def test_a_stream_at_its_lifetime_keeps_the_cursor(short_lived: Api) -> None:
    """`realtime.closing` has no id."""
    kind = unique()
    with short_lived.stream(types=kind) as stream:
        stream.ready()
        short_lived.publish({"type": kind, "data": 1})
        stream.next()
        [closing] = stream.rest()
    assert reason_of(closing) == "max-age"
    # With an id, the last frame could be ahead of an event that was matched but not written any more.
    assert stream.raw.endswith(b'\n\nevent: realtime.closing\ndata: {"reason":"max-age"}\n\n')
    page = short_lived.page(types=kind, last_event_id=closing.last_event_id)
    assert (page["events"], page["gap"]) == ([], None)


def test_repeated_closings_lose_and_repeat_nothing(short_lived: Api) -> None:
    kind, cursor = unique(), short_lived.head()
    arrived: list[object] = []
    connections = 0

    def publish() -> None:
        for n in range(400):
            short_lived.publish({"type": kind, "data": n})

    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(publish)
        while not publishing.done() or len(arrived) < 400:
            with short_lived.stream({"last-event-id": cursor}, types=kind) as stream:
                events = stream.rest()
            assert reason_of(events[-1]) == "max-age"
            assert all(event.type != "realtime.gap" for event in events)
            arrived += data_of(events)
            cursor = stream.cursor
            connections += 1
        publishing.result()
    assert arrived == list(range(400))
    assert connections > 1


def test_a_stream_ends_with_its_token_and_a_new_token_resumes_it(guarded: Api) -> None:
    kind, user = unique(), unique("u")
    publisher = guarded.acting(key=PUBLISH_KEY)
    brief = guarded.acting(token=user_token(user, exp=int(time.time()) + 3))
    with brief.stream(types=kind) as stream:
        stream.ready()
        publisher.publish({"type": kind, "data": 1, "userIds": [user]})
        events = stream.rest()
    assert data_of(events) == [1]
    assert reason_of(events[-1]) == "token-expired"
    publisher.publish({"type": kind, "data": 2, "userIds": [user]})
    late = user_token(user, exp=int(time.time()) - 6)  # beyond the leeway
    problem_of(guarded.acting(token=late).get(), 401)
    with guarded.acting(token=user_token(user)).stream({"last-event-id": stream.cursor}, types=kind) as stream:
        assert data_of(stream.ready()) == [2]


def test_a_long_poll_does_not_outlive_its_token(guarded: Api) -> None:
    expires = int(time.time()) + 3
    response = guarded.acting(token=user_token("u1", exp=expires)).get(params={"types": unique(), "wait": "20"})
    assert response.status_code == 200
    assert time.time() < expires + 5


@pytest.fixture
def idle_connection(short_lived: Api) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", short_lived.instance.port, timeout=TIMEOUT)
    yield connection
    connection.close()


def test_an_ended_stream_s_connection_can_be_reused(
    idle_connection: http.client.HTTPConnection,
) -> None:
    sockets = set()
    for _ in range(2):
        idle_connection.request("GET", "/api/events", headers={"accept": "text/event-stream"})
        response = idle_connection.getresponse()
        assert response.read().endswith(b'{"reason":"max-age"}\n\n')
        sockets.add(idle_connection.sock)
    idle_connection.request("GET", "/api/health/live")
    assert json.loads(idle_connection.getresponse().read())["status"] == "live"
    sockets.add(idle_connection.sock)
    assert len(sockets) == 1
    assert None not in sockets


def test_sigterm_closes_streams_and_another_instance_resumes(
    redis_api: Api, redis_settings: dict[str, str], make_instance: MakeInstance
) -> None:
    kind = unique()
    instance = make_instance(**redis_settings)
    leaving = Api(instance)
    with leaving.stream(types=kind) as one, leaving.stream(types=kind, format="cloudevents") as two:
        for stream in (one, two):
            stream.ready()
        leaving.publish({"type": kind, "data": 1})
        with ThreadPoolExecutor(1) as pool:
            poll = pool.submit(leaving.get, None, {"types": kind, "wait": "20"})
            # The poll is under way as soon as the instance counts it.
            while 'realtime_subscribers{state="live"} 3.0' not in leaving.http.get("/api/metrics").text:
                assert not poll.done()
            began = time.monotonic()
            instance.terminate()
            endings = [stream.rest() for stream in (one, two)]
            page = poll.result()
        code = instance.wait()
    assert time.monotonic() - began < 5
    assert code in (0, -15), "0, or the signal that it was asked to end with"
    assert [reason_of(events[-1]) for events in endings] == ["draining", "draining"]
    assert page.status_code == 200
    assert page.json()["events"] == []
    leaving.close()
    redis_api.publish({"type": kind, "data": 2})
    for cursor in (one.cursor, two.cursor, page.json()["cursor"]):
        with redis_api.stream({"last-event-id": cursor}, types=kind) as stream:
            assert data_of(stream.ready()) == [2]
    assert "Traceback" not in instance.log_file.read_text()
