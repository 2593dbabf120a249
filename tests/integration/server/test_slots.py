"""The slot of a stream is free soon after its end, whatever its peer sends, omits or leaves unread."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.integration.server.peers import (
    ALIVE,
    EVENTS,
    LIVE,
    RECEIVE_BUFFER,
    SOON,
    Peer,
    peer,
    slot_is_free,
    stream,
)
from tests.support.api import Api
from tests.support.processes import HOST, MakeInstance, MakeRedis, wait_until
from tests.support.tokens import PUBLISH_KEY, SECRET, user_token

USER = "u1"
EVENT_BYTES = 200_000
EVENTS_SENT = 60  # 12 MB: more than any kernel takes for a peer that does not read

POST = f"POST /api/publish HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 900000\r\n\r\n".encode()
BEHIND: Mapping[str, bytes] = {
    "nothing": b"",
    "a request": LIVE,
    "many requests": LIVE * 1_000,
    "half a head": LIVE[:30],
    "half a body": POST + b"x" * 300_000,
    "no HTTP": b"\x16\x03\x01\0" * 100,
    "another stream": EVENTS,
}
EACH_WAY = ("nothing", "many requests")  # of the others, one end is in the short run
# Each end and each way to read is also in a shorter pair.
SEEN_ELSEWHERE = {("lifetime", "less than was sent"), ("token", "nothing for long")}

MakeApi = Callable[..., Api]


@pytest.fixture
def make_api(make_instance: MakeInstance) -> Iterator[MakeApi]:
    """Starts an instance with room for one stream or long poll at a time, and these settings."""
    started: list[Api] = []

    def make(**settings: str) -> Api:
        started.append(Api(make_instance(REALTIME_MAX_CONNECTIONS="1", **settings)))
        return started[-1]

    yield make
    for api in started:
        api.close()


def flood(publisher: Api, events: int = EVENTS_SENT) -> None:
    """Publish far more than a kernel takes for one peer."""
    for number in range(events):
        publisher.publish({"type": "note", "data": f"{number} " + "x" * EVENT_BYTES})


@pytest.mark.parametrize(
    ("behind", "end"),
    [
        pytest.param(
            behind, end, marks=[] if end == "reset" or name in EACH_WAY else [pytest.mark.full], id=f"{name}-{end}"
        )
        for name, behind in BEHIND.items()
        for end in ("closed", "reset", "lifetime")
    ],
)
def test_requests_behind_a_stream_hold_no_slot(make_api: MakeApi, behind: bytes, end: str) -> None:
    """A request pipelined behind a stream paused the reading of the connection, so that its end was never seen."""
    api = make_api(**{"REALTIME_STREAM_SECONDS": "500ms"} if end == "lifetime" else {})
    opened = stream(api.instance)
    opened.send_until_refused(behind, 1)
    assert api.http.get("/api/health/live").status_code == 200, "what was sent has been read"
    if end == "closed":
        opened.close()
    elif end == "reset":
        opened.reset()
    slot_is_free(api)
    opened.close()


@pytest.mark.parametrize(
    ("end", "reads"),
    [
        pytest.param(
            end, reads, marks=[pytest.mark.full] if (end, reads) in SEEN_ELSEWHERE else [], id=f"{end}-{reads}"
        )
        for end in ("closed", "reset", "lifetime", "token", "revoked")
        for reads in ("everything", "less than was sent", "nothing for long")
    ],
)
def test_a_slot_is_free_soon_after_each_end(make_api: MakeApi, end: str, reads: str) -> None:
    """Whether the peer reads or not. With a full buffer the last frame waited without end."""
    until_then = 2 if reads == "everything" else 6  # seconds: enough to fill the buffers before
    lifetime = {"REALTIME_STREAM_SECONDS": f"{until_then}s"} if end == "lifetime" else {}
    api = make_api(REALTIME_JWT_SECRET=SECRET, REALTIME_PUBLISH_KEYS=PUBLISH_KEY, REALTIME_JWT_LEEWAY="0s", **lifetime)
    publisher, other = api.acting(key=PUBLISH_KEY), api.acting(token=user_token("u2"))
    ends = int(time.time()) + (until_then + 1 if end == "token" else 600)
    credential = f"authorization: Bearer {user_token(USER, exp=ends)}\r\naccept:".encode()
    began = time.monotonic()
    buffer = None if reads == "everything" else RECEIVE_BUFFER
    opened = stream(api.instance, head=EVENTS.replace(b"accept:", credential), receive_buffer=buffer)
    if reads == "less than was sent":
        while "realtime_socket_buffer_bytes 0.0" in api.http.get("/api/metrics").text:
            flood(publisher, 1)
    elif reads == "nothing for long":
        flood(publisher)
    if end == "closed":
        opened.close()
    elif end == "reset":
        opened.reset()
    elif end == "revoked":
        headers = {"authorization": f"Bearer {PUBLISH_KEY}"}
        assert api.http.post("/api/revocations", json={"userId": USER}, headers=headers).status_code == 202
    elif end == "lifetime":
        time.sleep(max(0.0, began + until_then - time.monotonic()))
    else:
        time.sleep(max(0.0, ends - time.time()))
    slot_is_free(other)
    if reads == "everything" and end not in ("closed", "reset"):
        reason = {"lifetime": b"max-age", "token": b"token-expired", "revoked": b"revoked"}[end]
        opened.read_until(b'{"reason":"%b"}\n\n' % reason)
    opened.close()


def test_a_peer_that_reads_nothing_is_cut_off(make_api: MakeApi) -> None:
    """It was kept for as long as its buffers were less than full, and beyond: 151 s were seen with a bound of 60 s."""
    api = make_api(REALTIME_STALL_SECONDS="2s", REALTIME_HEARTBEAT="1s")
    opened = stream(api.instance, receive_buffer=RECEIVE_BUFFER)
    api.publish({"type": "note", "data": "x" * EVENT_BYTES})
    slot_is_free(api, 2 + SOON)
    wait_until(lambda: '"slow-consumer"' in api.instance.log(), SOON)
    opened.close()


@pytest.mark.full
def test_a_peer_that_reads_little_by_little_is_kept(make_api: MakeApi) -> None:
    """It reads several times the bound of unsent bytes."""
    api = make_api(REALTIME_STALL_SECONDS="2s", REALTIME_HEARTBEAT="1s")
    opened = stream(api.instance, receive_buffer=RECEIVE_BUFFER)
    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(flood, api, 15)
        opened.read_until(b'data: "14 ', pause=0.005)
        publishing.result()
    assert api.get(params={"wait": "0.01"}).status_code == 429
    opened.close()


@pytest.mark.parametrize("behind", [b"", LIVE * 1_000], ids=["nothing", "many requests"])
def test_sigterm_waits_for_no_peer(make_instance: MakeInstance, behind: bytes) -> None:
    """With requests behind their streams, twenty peers held up the end for 11 s."""
    instance = make_instance()
    peers = [stream(instance, receive_buffer=RECEIVE_BUFFER) for _ in range(20)]
    for one in peers:
        one.send_until_refused(behind, 1)
    api = Api(instance)
    flood(api)
    api.close()
    began = time.monotonic()
    instance.terminate()
    assert instance.wait() == 0
    assert time.monotonic() - began < 9, "the bound of a drain is 10 s"
    for one in peers:
        one.close()


@pytest.mark.parametrize("behind", ["in one write", "later"])
def test_a_request_behind_a_stream_is_answered_after_it(make_api: MakeApi, behind: str) -> None:
    api = make_api(REALTIME_STREAM_SECONDS="500ms")
    with peer(api.instance) as one:
        one.send(EVENTS + LIVE) if behind == "in one write" else one.send(EVENTS)
        one.read_until(b"event: realtime.ready\n")
        if behind == "later":
            one.send(LIVE)
        assert one.read_until(b'{"reason":"max-age"}\n\n\r\n0\r\n\r\n')
        assert one.answer().body == ALIVE


def test_a_long_poll_whose_client_left_holds_no_slot(make_api: MakeApi) -> None:
    """Two of them were enough to keep a user with two connections out for 20 s."""
    api = make_api()
    poll = f"GET /api/events?wait=20 HTTP/1.1\r\nhost: {HOST}\r\naccept: application/json\r\n\r\n".encode()
    for behind in (b"", LIVE, LIVE * 1_000):
        waiting = Peer(api.instance)
        waiting.send(poll + behind)
        wait_until(lambda: 'realtime_subscribers{state="live"} 1.0' in api.http.get("/api/metrics").text, SOON)
        waiting.close()
        slot_is_free(api)


def test_a_stream_whose_client_left_while_it_opened(make_redis: MakeRedis, make_api: MakeApi) -> None:
    """Its slot was taken until the log had answered, or had been silent for 5 s."""
    redis = make_redis()
    api = make_api(REALTIME_TRANSPORT="redis", REDIS_URL=redis.url, REALTIME_AUTH="none")
    assert api.get().status_code == 200
    redis.pause()
    opening = Peer(api.instance)
    opening.send(EVENTS)
    assert api.http.get("/api/health/live").status_code == 200, "what was sent has been read"
    wait_until(lambda: is_taken(api), SOON)
    opening.close()
    wait_until(lambda: not is_taken(api), 2.0)
    redis.resume()


def is_taken(api: Api) -> bool:
    """Whether the only slot is taken: if it is free, a page waits for the log."""
    try:
        response = api.http.get("/api/events?wait=1", headers={"accept": "application/json"}, timeout=0.5)
    except httpx.ReadTimeout:
        return False
    return response.status_code == 429
