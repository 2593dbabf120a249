"""Memory kept for a peer before its credential is checked is bounded; measured at the process."""

import http.client

import pytest

from tests.integration.server.peers import ALIVE, LIVE, Peer, memory, peer
from tests.support.api import Api
from tests.support.processes import HOST, Instance, MakeInstance
from tests.support.tokens import PUBLISH_KEY, SECRET

GROWTH = 16 * 1024  # KiB; what these peers send is several times as much
MIB = 1024 * 1024


@pytest.fixture
def instance(make_instance: MakeInstance) -> Instance:
    """One that requires a key, and that has answered before: what the first answers need is not growth."""
    instance = make_instance(REALTIME_PUBLISH_KEYS=PUBLISH_KEY, REALTIME_JWT_SECRET=SECRET)
    api = Api(instance)
    for _ in range(20):
        assert api.post(b"{}").status_code == 401
    api.close()
    return instance


CHUNKED = f"POST /api/publish HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
ENDLESS = {
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", (b"t: " + b"x" * 1000 + b"\r\n") * 60),
    "one trailer": (CHUNKED + b"1\r\nx\r\n0\r\nt: ", b"x" * 60_000),
    "chunk extensions": (CHUNKED + b"1;", b"e=" + b"x" * 60_000),
    "many chunks with extensions": (CHUNKED, b"1;eeeeeeeeeeeeeeeeeeeeeee=xxxxxxxxxxxxxxxxxxxxxxxx\r\nx\r\n" * 1_000),
    "a chunk size": (CHUNKED, b"0" * 60_000),
    "a body": (CHUNKED, b"ea60\r\n" + b"x" * 60_000 + b"\r\n"),
    "headers": (b"GET / HTTP/1.1\r\n", (b"t: " + b"x" * 1000 + b"\r\n") * 60),
    "one header": (b"GET / HTTP/1.1\r\nt: ", b"x" * 60_000),
    "a path": (b"GET /", b"x" * 60_000),
    "line ends before a request": (b"", b"\r\n" * 30_000),
}


@pytest.mark.parametrize("case", ENDLESS, ids=list(ENDLESS))
def test_endless_requests_are_not_kept(instance: Instance, case: str) -> None:
    """With 401 answered at once, 64 MB of trailers took the process from 48 to 149 MB in 0.6 s, without end."""
    start, more = ENDLESS[case]
    before = memory(instance)
    with peer(instance) as one:
        one.send(start)
        one.send_until_refused(more, 64 * MIB // len(more))
        after = memory(instance)
        assert one.is_refused(more), "the connection is still open"
    assert after - before < GROWTH, f"grew from {before:,} to {after:,} KiB"


def test_trailers_within_the_bound_are_taken(instance: Instance) -> None:
    with peer(instance) as one:
        one.send(CHUNKED + b"1\r\nx\r\n0\r\nt: y\r\nauthorization: Bearer x\r\n\r\n" + LIVE)
        assert one.answer().status == 401
        assert one.answer().body == ALIVE


def test_small_chunks_are_taken(instance: Instance) -> None:
    """A client may write its JSON piece by piece."""
    body = b'{"type": "note", "data": "' + b"x" * 100_000 + b'"}'
    chunks = b"".join(b"8\r\n%b\r\n" % body[at : at + 8].ljust(8) for at in range(0, len(body), 8))
    head = CHUNKED.replace(b"host:", b"content-type: application/json\r\nauthorization: Bearer %b\r\nhost:")
    with peer(instance) as one:
        one.send(head % PUBLISH_KEY.encode() + chunks + b"0\r\n\r\n")
        assert one.answer().status == 202


def test_pipelined_requests_are_not_hoarded(instance: Instance) -> None:
    """5 MB of them on twenty connections took the process from 38 to 367 MB, which it held, and health took 3.4 s."""
    before = memory(instance)
    peers = [Peer(instance) for _ in range(20)]
    for one in peers:
        one.socket.settimeout(2.0)
        one.send_until_refused(LIVE * 1_000, 5)
    connection = http.client.HTTPConnection(HOST, instance.port, timeout=15)
    connection.request("GET", "/api/health/live")
    assert connection.getresponse().read() == ALIVE
    connection.close()
    after = memory(instance)
    for one in peers:
        one.close()
    assert after - before < GROWTH, f"grew from {before:,} to {after:,} KiB"


def test_pipelined_requests_are_answered_in_order(instance: Instance) -> None:
    paths = [f"/api/nothing-{number}" if number % 2 else "/api/health/live" for number in range(8)]
    with peer(instance) as one:
        one.send(b"".join(LIVE.replace(b"/api/health/live", path.encode()) for path in paths))
        assert [one.answer().status for _ in paths] == [200, 404] * 4
        one.send(LIVE)
        assert one.answer().body == ALIVE


def test_more_pipelined_requests_than_are_kept_are_not_answered(instance: Instance) -> None:
    """The kept ones are answered; the last response has `Connection: close` (RFC 9112 section 9.6)."""
    with peer(instance) as one:
        one.send(LIVE * 100)
        answers = [one.answer()]
        while "connection" not in answers[-1].headers:
            answers.append(one.answer())
        assert answers[-1].headers["connection"] == "close"
        assert {answer.status for answer in answers} == {200}
        assert 8 < len(answers) < 30
        assert one.rest() == b""


def test_an_early_answer_does_not_take_the_rest_of_its_body(instance: Instance) -> None:
    """What follows within a bound is dropped, so that the answer arrives, and the connection serves the next."""
    head = f"POST /api/publish HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 500000\r\n\r\n".encode()
    with peer(instance) as one:
        one.send(head)
        assert one.answer().status == 401
        one.send(b"x" * 500_000, LIVE)
        assert one.answer().body == ALIVE
