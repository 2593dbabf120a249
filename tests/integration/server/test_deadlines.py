"""Deadlines for silent peers: with half a head, half a body, or no request at all."""

import json
import threading
import time
from collections.abc import Iterator

import pytest

from tests.integration.server.peers import ALIVE, EVENTS, LIVE, Peer, peer
from tests.support.api import Api, check
from tests.support.processes import HOST, Instance, MakeInstance
from tests.support.tokens import PUBLISH_KEY, SECRET

SHORT = {"REALTIME_HEAD_SECONDS": "1s", "REALTIME_BODY_SECONDS": "1s", "REALTIME_KEEP_ALIVE": "1s"}
EVENT = b'{"type": "note", "data": 1}'
POST = (
    f"POST /api/publish HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {PUBLISH_KEY}\r\n"
    "content-type: application/json\r\n"
).encode()
LONG_POLL = f"GET /api/events?wait=3 HTTP/1.1\r\nhost: {HOST}\r\naccept: application/json\r\n\r\n".encode()


@pytest.fixture
def instance(make_instance: MakeInstance) -> Instance:
    return make_instance(REALTIME_PUBLISH_KEYS=PUBLISH_KEY, REALTIME_JWT_SECRET=SECRET, **SHORT)


@pytest.fixture
def open_instance(make_instance: MakeInstance) -> Instance:
    return make_instance(REALTIME_HEARTBEAT="500ms", **SHORT)


UNFINISHED = {
    "half a head": (LIVE[:30], "REALTIME_HEAD_SECONDS"),
    "half a line": (b"GE", "REALTIME_HEAD_SECONDS"),
    "half a body": (POST + b"content-length: 27\r\n\r\n" + EVENT[:10], "REALTIME_BODY_SECONDS"),
    "no body": (POST + b"content-length: 27\r\n\r\n", "REALTIME_BODY_SECONDS"),
    "half a chunk": (POST + b"transfer-encoding: chunked\r\n\r\nff\r\n" + EVENT, "REALTIME_BODY_SECONDS"),
    "no last chunk": (POST + b"transfer-encoding: chunked\r\n\r\n1b\r\n" + EVENT + b"\r\n", "REALTIME_BODY_SECONDS"),
}


@pytest.mark.parametrize("case", UNFINISHED)
def test_a_request_that_does_not_end_is_408(instance: Instance, case: str) -> None:
    """Such connections used to stay open for more than 100 s."""
    sent, variable = UNFINISHED[case]
    with peer(instance) as one:
        one.send(sent)
        answer = one.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert variable in answer.json()["detail"]
        check(answer.json(), "Problem")
        assert one.rest() == b""
    assert "Traceback" not in instance.log()


def test_a_pipelined_request_that_does_not_end_is_408(instance: Instance) -> None:
    """Its deadline begins when the response before it is complete; without one, it held the connection forever."""
    with peer(instance) as one:
        one.send(LIVE + POST + b"content-length: 27\r\n\r\n" + EVENT[:10])
        assert one.answer().body == ALIVE
        assert one.answer().status == 408


@pytest.fixture
def trickling() -> Iterator[list[Peer]]:
    """Peers that get a byte every 100 ms, until the test ends."""
    peers: list[Peer] = []
    ended = threading.Event()

    def trickle() -> None:
        while not ended.wait(0.1):
            for one in peers:
                one.send_until_refused(b"x", 1)

    thread = threading.Thread(target=trickle)
    thread.start()
    yield peers
    ended.set()
    thread.join()


@pytest.mark.parametrize("start", [b"GET /", POST + b"content-length: 100000\r\n\r\n"], ids=["a head", "a body"])
def test_a_trickle_does_not_extend_a_deadline(instance: Instance, trickling: list[Peer], start: bytes) -> None:
    with peer(instance) as one:
        one.send(start)
        trickling.append(one)
        assert one.answer().status == 408


def test_a_silent_connection_is_closed_without_a_response(instance: Instance) -> None:
    with peer(instance) as one:
        assert one.rest() == b""
    with peer(instance) as one:
        one.send(LIVE)
        assert one.answer().body == ALIVE
        assert one.rest() == b""


def test_the_rest_of_a_refused_body_has_a_deadline(instance: Instance) -> None:
    """The server reads on for a few seconds, so that the refusal arrives, and then closes."""
    with peer(instance) as one:
        one.send(POST.replace(PUBLISH_KEY.encode(), b"x") + b"content-length: 27\r\n\r\n" + EVENT[:10])
        assert one.answer().status == 401
        assert one.rest() == b""


def test_a_stream_whose_request_does_not_end_is_closed(open_instance: Instance) -> None:
    with peer(open_instance) as one:
        one.send(EVENTS.replace(b"\r\n\r\n", b"\r\ncontent-length: 100\r\n\r\n"))
        one.read_until(b"event: realtime.ready\n")
        one.rest()


def test_a_request_being_answered_has_no_such_deadline(open_instance: Instance) -> None:
    with peer(open_instance) as poll, peer(open_instance) as stream:
        poll.send(LONG_POLL)
        stream.send(EVENTS)
        began = time.monotonic()
        answer = poll.answer()
        assert answer.status == 200
        assert json.loads(answer.body)["events"] == []
        assert time.monotonic() - began > 2.5
        api = Api(open_instance)
        api.publish({"type": "note", "data": "still there"})
        stream.read_until(b'data: "still there"\n')
        api.close()


@pytest.mark.full
def test_by_default_a_connection_outlives_those_of_proxies(make_instance: MakeInstance) -> None:
    """Proxies (nginx, AWS) keep idle connections for 60 s; a server that closed earlier would break their requests."""
    instance = make_instance()
    with peer(instance) as kept, peer(instance) as watch:
        kept.send(LIVE)
        assert kept.answer().body == ALIVE
        watch.socket.settimeout(7.0)
        with pytest.raises(TimeoutError):
            watch.rest()
        kept.send(LIVE)
        assert kept.answer().body == ALIVE
