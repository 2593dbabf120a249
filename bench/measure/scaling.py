"""What one Redis and a cluster of three can do: CPU time per append and per record read, memory, latency, idle cost."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from bench.process import BenchError, Child, read_line
from bench.redis_watch import Commands, info
from bench.servers import redis, redis_cluster, tidewire
from bench.session import Session
from bench.views import View

TITLE = "One Redis, and a cluster of three"
VIEWS = [
    View("appends", "events appended per CPU second of the busiest node", digits=0),
    View("redis_us", "CPU µs per event: Redis, all nodes", digits=1),
    View("publisher_us", "the publishing process", digits=0),
    View("busiest", "CPU of the busiest node to the mean of the nodes", digits=2),
    View("memory_bytes", "bytes of memory per event, its id included", digits=0),
    View("read_redis_us", "CPU µs per record read by one process: Redis, all nodes", digits=1),
    View("reader_us", "the reading process", digits=0),
    View("idle_per_hour", "commands per hour of an idle process that follows all partitions", digits=0),
    View("p50_us", "µs from publish to receipt, p50", digits=0),
    View("p99_us", "the same, p99", digits=0),
    View("streaming_us", "CPU µs per event: the streaming process, 10 connections", digits=0),
]

ONE, CLUSTER = "one Redis", "cluster of three"
WHO = (ONE, CLUSTER)
SIZE = 200  # bytes of data
USERS = 10_000
READERS = 4  # processes that read everything
READ_RATE = 1_000  # events per second
READ_BATCH = 5
RATE = 500  # events per second of the latency
SECONDS = 30.0  # until a process must be ready, or done beyond its planned time


@dataclass(frozen=True, slots=True)
class Case:
    """Appends of one kind: `batch` events per publish, each of `size` bytes; with shards, each for one user."""

    batch: int
    size: int = SIZE
    shards: int = 0

    def __str__(self) -> str:
        shards = f", {self.shards} shards" if self.shards else ""
        return f"{self.batch} per publish, {self.size:,} bytes{shards}"


CASES = (
    Case(1),
    Case(1, 2_000),
    Case(100),
    Case(1, shards=64),
    Case(100, shards=16),
    Case(100, shards=64),
    Case(100, shards=256),
)
READ_SHARDS = (0, 64, 256)
IDLE_SHARDS = {ONE: (256,), CLUSTER: (0, 64, 256)}


@dataclass(frozen=True, slots=True)
class Store:
    """One Redis or several."""

    url: str
    ports: Sequence[int]

    def cpu(self) -> list[float]:
        """Return the CPU seconds of each node."""
        found = [info(port, "cpu") for port in self.ports]
        return [float(node["used_cpu_user"]) + float(node["used_cpu_sys"]) for node in found]

    def memory(self) -> int:
        """Return the bytes that all nodes use."""
        return sum(int(info(port, "memory")["used_memory"]) for port in self.ports)

    def settings(self, prefix: str, shards: int = 0) -> dict[str, str]:
        """Return the environment of a process on this store."""
        found = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": self.url, "REALTIME_PREFIX": prefix}
        return found | ({"REALTIME_USER_SHARDS": str(shards)} if shards else {})


def append_prefix(run: int, number: int) -> str:
    """Return the REALTIME_PREFIX of a case: a log of its own. It decides which node owns which partition."""
    return f"a{run}-{number}"


def measure(session: Session) -> None:
    """Appends, reads and latency alternate between the two; idle processes run once: counts hardly vary."""
    with ExitStack() as stack:
        stores = {
            who: stack.enter_context(opened(session, who)) for who in WHO if not session.only or who in session.only
        }
        for run, who in session.rounds(WHO):
            for number, case in enumerate(CASES):
                appended(session, stores[who], run, who, case, append_prefix(run, number))
        for run, who in session.rounds(WHO):
            for shards in READ_SHARDS:
                read(session, stores[who], run, who, shards)
        for run, who in session.rounds(WHO):
            latency(session, stores[who], run, who)
    idle(session)


@contextmanager
def opened(session: Session, who: str) -> Iterator[Store]:
    """One Redis, or a cluster of three primaries without replicas; empty, without persistence."""
    if who == ONE:
        with redis(session.tmp) as server:
            yield Store(f"redis://127.0.0.1:{server.port}/0", [server.port])
    else:
        with redis_cluster(session.tmp) as cluster:
            yield Store(cluster.url, [node.port for node in cluster.primaries()])


def appended(session: Session, store: Store, run: int, who: str, case: Case, prefix: str) -> None:
    """One batch after another, without readers: CPU time and memory per event."""
    events = session.pick(5_000, 1_000) * (4 if case.batch > 1 else 1)
    with session.attempt(str(case), who, run) as stack:
        users = USERS if case.shards else 0
        words = ("append", events, case.batch, case.size, users, 0)
        program = stack.enter_context(log_load(session, store.settings(prefix, case.shards), *words))
        memory, before = store.memory(), store.cpu()
        found = program.run(SECONDS)
        cpu = [after - begun for after, begun in zip(store.cpu(), before, strict=True)]
        values = {
            "appends": events / max(cpu),
            "redis_us": sum(cpu) / events * 1e6,
            "publisher_us": found["cpu_us"],
            "memory_bytes": (store.memory() - memory) / events,
        }
        if len(cpu) > 1:
            values["busiest"] = max(cpu) / fmean(cpu)
        session.add(str(case), who, run, **values)


def read(session: Session, store: Store, run: int, who: str, shards: int) -> None:
    """The same rate without readers and with some that read everything; the difference is their cost to Redis."""
    case = f"read at {READ_RATE:,}/s, {f'{shards} shards' if shards else 'no shards'}"
    seconds = session.pick(2, 1)
    events = READ_RATE * seconds
    cost: list[float] = []
    found: list[float] = []
    with session.attempt(case, who, run):
        for readers in (0, READERS):
            settings = store.settings(f"r{run}-{shards}-{readers}", shards)
            with ExitStack() as stack:
                writer = stack.enter_context(
                    log_load(session, settings, "append", events, READ_BATCH, SIZE, USERS, READ_RATE)
                )
                following = [stack.enter_context(log_load(session, settings, "follow", events)) for _ in range(readers)]
                for program in following:
                    program.start()
                before = sum(store.cpu())
                writer.run(SECONDS + seconds)
                found = [program.wait(SECONDS)["cpu_us"] for program in following]
                cost.append((sum(store.cpu()) - before) / events * 1e6)
        session.add(case, who, run, read_redis_us=(cost[1] - cost[0]) / READERS, reader_us=fmean(found))


def latency(session: Session, store: Store, run: int, who: str) -> None:
    """HTTP publish → log → another process → SSE, single events, as in `endtoend`; nothing pinned."""
    case = f"publish → SSE, {RATE}/s"
    seconds = session.pick(3, 2)
    settings = store.settings(f"l{run}")
    with session.attempt(case, who, run) as stack:
        publisher = stack.enter_context(tidewire(session.tmp, None, settings))
        reader = stack.enter_context(tidewire(session.tmp, None, settings))
        load = stack.enter_context(
            session.load(
                replace(reader, publish_port=publisher.port),
                pinned=False,
                conns=10,
                mode="rate",
                rate=RATE,
                events=RATE * seconds,
                warmup=RATE // 5,
            )
        )
        load.step("connected")
        load.step("warm")
        before = sum(store.cpu()), reader.child.cpu(), publisher.child.cpu()
        done = load.step("done")
        after = sum(store.cpu()), reader.child.cpu(), publisher.child.cpu()
        spent = [(end - begin) / done["published"] * 1e6 for end, begin in zip(after, before, strict=True)]
        session.add(
            case,
            who,
            run,
            p50_us=done["latency_us"]["p50"],
            p99_us=done["latency_us"]["p99"],
            redis_us=spent[0],
            streaming_us=spent[1],
            publisher_us=spent[2],
        )


def idle(session: Session) -> None:
    """Processes that follow all partitions of a log in which nothing happens; each has a store of its own."""
    seconds = session.pick(60, 16)
    with session.attempt("idle", ", ".join(WHO), 0) as stack:
        watched = []
        for who in WHO:
            for shards in IDLE_SHARDS[who] if not session.only or who in session.only else ():
                store = stack.enter_context(opened(session, who))
                program = stack.enter_context(log_load(session, store.settings("rt", shards), "follow", 1))
                program.start()
                watched.append((who, shards, store))
        time.sleep(2)  # the first reads
        with ExitStack() as watching:
            counts = [
                [watching.enter_context(Commands(port)) for port in store.ports] for _, _, store in watched
            ]  # a script counts as one command, as it is billed
            time.sleep(seconds)
        for (who, shards, _), nodes in zip(watched, counts, strict=True):
            case = f"idle, {f'{shards} shards' if shards else 'no shards'}"
            session.add(case, who, 0, idle_per_hour=sum(node.total for node in nodes) / seconds * 3600)


class LogLoad:
    """A running `bench.log_load`, which waits for its start."""

    def __init__(self, child: Child) -> None:
        self.child = child

    def start(self) -> None:
        """Let it begin."""
        assert self.child.popen.stdin is not None
        self.child.popen.stdin.write(b"\n")
        self.child.popen.stdin.flush()

    def wait(self, seconds: float) -> Mapping[str, float]:
        """Return what it prints when it is done."""
        found: Mapping[str, float] = json.loads(self.line(seconds))
        return found

    def run(self, seconds: float) -> Mapping[str, float]:
        """Let it begin, and return what it prints when it is done."""
        self.start()
        return self.wait(seconds)

    def line(self, seconds: float) -> bytes:
        """Return its next line. Raises BenchError if there is none in time."""
        assert self.child.popen.stdout is not None
        if not (line := read_line(self.child.popen.stdout, seconds)):
            raise BenchError(f"a process of the log is not done after {seconds:g} s:\n{self.child.tail()}")
        return line


@contextmanager
def log_load(session: Session, settings: Mapping[str, str], *words: Any) -> Iterator[LogLoad]:
    """Start `bench.log_load` with these arguments; yields when it is ready."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
    argv = [sys.executable, "-m", "bench.log_load", *map(str, words)]
    log = session.tmp / "log-load.log"
    pipe = subprocess.PIPE
    with Child(argv, log=log, env={**env, "REALTIME_AUTH": "none", **settings}, stdin=pipe, stdout=pipe) as child:
        program = LogLoad(child)
        program.line(SECONDS)
        yield program
