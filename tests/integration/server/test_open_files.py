"""Near the limit of open files, an instance stays reachable and reports the limit."""

import asyncio
import resource
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.integration.server.peers import LIVE, SECONDS, Peer, peer, stream
from tests.support.api import Api, problem_of
from tests.support.clients import follow, get, publish_all
from tests.support.processes import Instance, MakeInstance, wait_until

FILES = 100


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """An instance with this limit of open files."""
    limited = f"ulimit -n {FILES} && exec {sys.executable} -m functions.local"
    instance = Instance(tmp_path, {}, command=["sh", "-c", limited])
    with ExitStack() as stack:
        stack.callback(instance.stop)
        yield instance.start()


@pytest.mark.parametrize("sent", [b"", LIVE[:20]], ids=["nothing", "half a head"])
def test_silent_connections_do_not_lock_others_out(instance: Instance, sent: bytes) -> None:
    """At the limit every new connection used to be reset for 75 s, without a log line."""
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
    assert "file descriptor" in problem["detail"]
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


NO_FILE = "cannot accept a connection (Too many open files)"
WAITING = 5


def files(instance: Instance) -> set[int]:
    """The instance's file descriptors; the next one that it opens is the lowest free number."""
    return {int(entry.name) for entry in Path(f"/proc/{instance.pid}/fd").iterdir()}


@contextmanager
def no_file_left(instance: Instance) -> Iterator[None]:
    """Within the block, the limit of the instance is its number of open files: it can open no other."""
    soft, hard = resource.prlimit(instance.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(instance.pid, resource.RLIMIT_NOFILE, (max(files(instance)) + 1, hard))
    try:
        yield
    finally:
        resource.prlimit(instance.pid, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody can change the limit of a process that runs")
async def test_streams_continue_while_accept_has_no_file(redis_url: str, make_instance: MakeInstance) -> None:
    """accept() itself fails (EMFILE), although the instance reckons that it has files left.

    Whoever comes waits until a stream ends, and is answered then, with the limit as low as before. Each of them has
    to be closed for the next one, so accept() fails once for each: that is two lines in the log, and no more.
    """
    settings = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": redis_url, "REALTIME_AUTH": "none"}
    full, elsewhere = [await asyncio.to_thread(make_instance, **settings) for _ in range(2)]
    async with AsyncExitStack() as stack:
        staying = await stack.enter_async_context(follow(full))
        leaving = await stack.enter_async_context(AsyncExitStack())
        await leaving.enter_async_context(follow(full))
        while files(full) != set(range(len(files(full)))):  # a number in between would be one that is free
            await leaving.enter_async_context(follow(full))
        with no_file_left(full):
            waiting = [Peer(full) for _ in range(WAITING)]
            for one in waiting:
                one.send(LIVE)
            await asyncio.to_thread(wait_until, lambda: NO_FILE in full.log(), SECONDS)
            await publish_all(elsewhere, ["meanwhile"])
            await staying.has("meanwhile")
            await leaving.aclose()
            for one in waiting:
                assert (await asyncio.to_thread(one.answer)).status == 200
            await publish_all(elsewhere, ["after"])
            await staying.has("meanwhile", "after")
        assert staying.is_open()
        assert (await get(full, "/api/health/ready")).status == 200
        assert full.log().count(NO_FILE) == 2, full.log()
        assert f"{NO_FILE}; no connection is silent" in full.log()
