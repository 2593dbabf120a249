"""Near the limit of open files an instance stays reachable, and says what is wrong."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.functions.api import Api, problem_of
from tests.processes import Instance, wait_until
from tests.server.peers import LIVE, SECONDS, Peer, peer, stream

FILES = 100


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """An instance that may have so many files open."""
    limited = f"ulimit -n {FILES} && exec {sys.executable} -m functions.local"
    instance = Instance(tmp_path, {}, command=["sh", "-c", limited])
    with ExitStack() as stack:
        stack.callback(instance.stop)
        yield instance.start()


@pytest.mark.parametrize("sent", [b"", LIVE[:20]], ids=["nothing", "half a head"])
def test_silent_connections_do_not_lock_others_out(instance: Instance, sent: bytes) -> None:
    """At the limit nobody was answered for 75 s: every new connection was reset, without a line in the log."""
    with ExitStack() as stack:
        for _ in range(2 * FILES):
            one = stack.enter_context(peer(instance))
            one.send_until_refused(sent, 1)
        with peer(instance) as honest:
            honest.send(LIVE)
            assert honest.answer().status == 200
    log = instance.log()
    assert f"of {FILES} files are in use: raise the limit" in log
    assert f"of {FILES} files are in use: closing the connections that are silent for longest" in log
    assert log.count("files are in use") == 2, "a flood of connections is no flood of lines"


def test_a_stream_is_not_closed_for_silent_connections(instance: Instance) -> None:
    opened = stream(instance)
    with ExitStack() as stack:
        for _ in range(2 * FILES):
            stack.enter_context(peer(instance))
        api = Api(instance)
        api.publish({"type": "note", "data": "still there"})
        opened.read_until(b'data: "still there"\n')
        api.close()
    opened.close()


def test_streams_leave_files_for_short_requests(instance: Instance) -> None:
    api = Api(instance)
    opened: list[Peer] = []
    refused = None
    for _ in range(FILES):
        one = Peer(instance)
        one.send(b"GET /api/events HTTP/1.1\r\nhost: t\r\n\r\n")
        status = one.read_until(b"\r\n")
        opened.append(one)
        if b"200" not in status:
            refused = status
            break
    assert refused == b"HTTP/1.1 503 Service Unavailable\r\n"
    problem = problem_of(api.http.get("/api/events"), 503)
    assert "files" in problem["detail"]
    api.publish({"type": "note", "data": 1})
    assert f"of {FILES} files are in use: streams are refused" in instance.log()
    for one in opened:
        one.close()
    wait_until(
        lambda: api.http.get("/api/events?wait=0", headers={"accept": "application/json"}).status_code == 200, SECONDS
    )
    again = stream(instance)
    again.close()
    api.close()
