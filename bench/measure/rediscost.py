"""Redis commands and bytes per published event, per delivery, and of an idle instance."""

import time
from dataclasses import replace

from bench.client import publish_only
from bench.redis_watch import Commands, bytes_moved, bytes_read_by
from bench.servers import TIDEWIRE_USER_BODY, redis, tidewire_on_redis
from bench.session import Session
from bench.views import View

TITLE = "Redis: commands and bytes"
VIEWS = [
    View("commands", "commands per event (per POST, per minute of an idle instance)", digits=3),
    View("bytes_in", "bytes to Redis per event", digits=0),
    View("bytes_out", "bytes from Redis per event", digits=0),
    View("read_per_delivered", "bytes read from Redis per byte delivered to the one user", digits=2),
]

USERS = 1_000
SHARDS = (0, 64, 256)  # 256 are the most that a process accepts
SAMPLED_USERS = (7, 123, 250, 377, 500, 641, 777, 901)


def measure(session: Session) -> None:
    """Counts barely vary: at most three rounds."""
    for run in range(min(session.runs, 3)):
        for batch in (1, 100):
            published(session, run, batch)
        delivered(session, run)
        for instances in session.pick([1, 10, 100], [1, 4]):
            idle(session, run, instances)
        for shards in SHARDS:
            one_user(session, run, shards)


def published(session: Session, run: int, batch: int) -> None:
    """POSTs without any subscriber: round trips per POST, bytes an event."""
    case = f"published, {batch} a POST"
    posts = session.pick(500, 100)
    options = {"log": session.tmp / "load.log", "mode": "one", "batch": batch, "events": posts * batch}
    with session.attempt(case, "tidewire", run) as stack:
        store = stack.enter_context(redis(session.tmp))
        server = stack.enter_context(tidewire_on_redis(session.tmp, store.port))
        publish_only(server, log=session.tmp / "load.log", mode="one", events=5)  # connects, loads the script
        with Commands(store.port) as commands:
            publish_only(server, **options)
        before = bytes_moved(store.port)
        publish_only(server, **options)
        after = bytes_moved(store.port)
        session.add(
            case,
            "tidewire",
            run,
            commands=commands.total / posts,
            bytes_in=(after[0] - before[0]) / posts / batch,
            bytes_out=(after[1] - before[1]) / posts / batch,
        )


def delivered(session: Session, run: int) -> None:
    """What the streaming process adds to that, for any number of connections: one event at a time costs most."""
    case = "delivered to 100 connections"
    events = session.pick(500, 100)
    with session.attempt(case, "tidewire", run) as stack:
        store = stack.enter_context(redis(session.tmp))
        publisher = stack.enter_context(tidewire_on_redis(session.tmp, store.port))
        reader = stack.enter_context(tidewire_on_redis(session.tmp, store.port))
        load = stack.enter_context(
            session.load(replace(reader, publish_port=publisher.port), conns=100, mode="one", events=events, warmup=5)
        )
        load.step("connected")
        load.step("warm")
        with Commands(store.port) as commands:
            load.step("done")
        reads = sum(count for name, count in commands.by_name.items() if name in ("XREAD", "XRANGE"))
        session.add(case, "tidewire", run, commands=reads / events)


def idle(session: Session, run: int, instances: int) -> None:
    """Instances with ten clients each and nothing to say."""
    case = f"idle, {instances} instance{'s' if instances > 1 else ''}"
    seconds = session.pick(60, 10)  # two blocking reads of 30 s each
    with session.attempt(case, "tidewire", run) as stack:
        store = stack.enter_context(redis(session.tmp))
        # Not all at once: a hundred interpreters starting together would outlast their own start-up limit.
        for server in [stack.enter_context(tidewire_on_redis(session.tmp, store.port)) for _ in range(instances)]:
            load = stack.enter_context(session.load(server, conns=10, mode="listen", events=1, timeout=seconds + 60))
            load.step("connected")
        with Commands(store.port) as commands:
            time.sleep(seconds)
        session.add(case, "tidewire", run, commands=commands.total / instances / seconds * 60)


def one_user(session: Session, run: int, shards: int) -> None:
    """A function that serves one user of a thousand: what it reads for each byte that the user gets."""
    case = f"one of {USERS:,} users, {f'{shards:,} shards' if shards else 'no shards'}"
    rounds = session.pick(5, 2)  # events for each user
    setting = {"REALTIME_USER_SHARDS": str(shards)} if shards else {}
    events = rounds * USERS
    addressed = {"mode": "one", "batch": 100, "events": events, "users": USERS, "body": TIDEWIRE_USER_BODY}
    log = session.tmp / "load.log"
    with session.attempt(case, "tidewire", run) as stack:
        store = stack.enter_context(redis(session.tmp))
        publisher = stack.enter_context(tidewire_on_redis(session.tmp, store.port, settings=setting))
        reader = stack.enter_context(tidewire_on_redis(session.tmp, store.port, settings=setting))
        read = delivered = 0
        for user in SAMPLED_USERS:  # how many others share the shard is a matter of luck: the mean over some users
            path = f"{reader.events}?userId=u{user}"
            with session.load(reader, path=path, conns=1, mode="listen", events=rounds, timeout=30) as load:
                load.step("connected")
                before = bytes_read_by(reader.child.pid, store.port)
                load.go()
                publish_only(publisher, log=log, **addressed)
                delivered += load.wait("done")["bytes"]
                read += bytes_read_by(reader.child.pid, store.port) - before
        session.add(case, "tidewire", run, read_per_delivered=read / delivered)
