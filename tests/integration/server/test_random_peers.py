"""Requests cut, pipelined, malformed and abandoned at random: the responses are right, and nothing leaks."""

import itertools
import random

import pytest

from tests.integration.server.peers import LIVE, SECONDS, Peer, peer, slot_is_free
from tests.support.api import Api
from tests.support.processes import HOST, Instance, MakeInstance, wait_until

SEEDS = [seed if seed < 2 else pytest.param(seed, marks=pytest.mark.full) for seed in range(6)]
ROUNDS = 60
EVENT = b'{"type": "note", "data": 1}'
HEAD = f"POST /api/publish HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\n".encode()
UPGRADE = b"connection: upgrade\r\nupgrade: h2c\r\n"
SIZED = b"content-length: %d\r\n\r\n%b" % (len(EVENT), EVENT)
CHUNKED = b"transfer-encoding: chunked\r\n\r\n5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (EVENT[:5], len(EVENT) - 5, EVENT[5:])
REQUESTS = [
    (LIVE, 200),
    (LIVE.replace(b"live", b"nothing"), 404),
    (HEAD + SIZED, 202),
    (HEAD + CHUNKED, 202),
    (HEAD + UPGRADE + SIZED, 202),
    (HEAD + UPGRADE + CHUNKED, 202),
    (LIVE.replace(b"\r\n\r\n", b"\r\n" + UPGRADE + b"\r\n"), 200),
    (HEAD.replace(b"json", b"text") + SIZED, 415),
    (HEAD.replace(b"json", b"text") + CHUNKED.replace(b"\r\n0\r\n", b"\r\n0\r\ntrailer: x\r\n"), 415),
    (f"GET /api/events?wait=0.05 HTTP/1.1\r\nhost: {HOST}\r\naccept: application/json\r\n\r\n".encode(), 200),
]
STREAM = f"GET /api/events HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode()


def pieces(dice: random.Random, data: bytes) -> list[bytes]:
    """The data, cut at random places."""
    cuts = sorted({0, len(data), *(dice.randrange(len(data)) for _ in range(dice.randrange(8)))})
    return [data[start:end] for start, end in itertools.pairwise(cuts)]


@pytest.fixture
def instance(make_instance: MakeInstance) -> Instance:
    return make_instance(REALTIME_STREAM_SECONDS="300ms", REALTIME_MAX_CONNECTIONS="300")


@pytest.mark.parametrize("seed", SEEDS)
def test_requests_cut_anywhere_are_answered_in_order(instance: Instance, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(ROUNDS):
        chosen = dice.choices(REQUESTS, k=dice.randint(1, 12))
        with peer(instance) as one:
            one.send(*pieces(dice, b"".join(request for request, _ in chosen)))
            assert [one.answer().status for _ in chosen] == [status for _, status in chosen]
    assert "Traceback" not in instance.log()


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_of_broken_peers_stays_behind(instance: Instance, seed: int) -> None:
    """Bytes are changed, left out and added, connections closed and reset at any moment; then every slot is free."""
    dice = random.Random(seed)
    for _ in range(ROUNDS):
        data = bytearray(
            b"".join(request for request, _ in dice.choices([*REQUESTS, (STREAM, 200)], k=dice.randint(1, 20)))
        )
        for _ in range(dice.randrange(4)):
            place = dice.randrange(len(data))
            data[place : place + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
        one = Peer(instance)
        for piece in pieces(dice, bytes(data)):
            one.send_until_refused(piece, 1)
        if dice.random() < 0.3:
            one.socket.settimeout(0.05)
            one.drain()
        one.reset() if dice.random() < 0.5 else one.close()
    api = Api(instance)
    wait_until(lambda: 'realtime_subscribers{state="live"} 0.0' in api.http.get("/api/metrics").text, SECONDS)
    slot_is_free(api)
    api.close()
    assert "Traceback" not in instance.log()
    instance.terminate()
    assert instance.wait() == 0
