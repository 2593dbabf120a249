"""A process that appends to the log, or follows it, without HTTP. It waits for a line, and prints its CPU time.

`bench.log_load append EVENTS BATCH SIZE USERS RATE` publishes one batch after another; RATE is events per second, 0 as
fast as the log answers. With USERS, each event is for one of them. `bench.log_load follow EVENTS` reads all partitions
until it has that many records. Settings come from the environment.
"""

import asyncio
import json
import os
import sys
import time

import uvloop
from tidewire.model.event import Event, new_id
from tidewire.model.record import Gap, Record
from tidewire.settings.config import Settings
from tidewire.transports.base import Log
from tidewire.wiring import make_partitions, make_transport

WARMUP = 20  # batches: connections, scripts, the list of partition schemes


async def append(events: int, batch: int, size: int, users: int, rate: float) -> None:
    """Publish `events` in batches, after a few to warm up."""
    transport = make_transport(Settings.from_env(os.environ))
    data = b'"' + b"x" * (size - 2) + b'"'

    async def publish(first: int) -> None:
        await transport.publish(
            [
                Event(new_id(), "bench", data, user_ids=(f"u{number % users}",) if users else None)
                for number in range(first, first + batch)
            ]
        )

    for number in range(WARMUP):
        await publish(number * batch)
    await started()
    before, due = time.process_time(), time.monotonic()
    for first in range(0, events, batch):
        if rate:
            due += batch / rate
            await asyncio.sleep(due - time.monotonic())
        await publish(first)
    report(before, events)
    await transport.aclose()


async def follow(events: int) -> None:
    """Read every partition of the scheme until `events` records have arrived, or until it is killed."""
    settings = Settings.from_env(os.environ)
    transport = make_transport(settings)
    assert isinstance(transport, Log)
    counted = 0
    all_read = asyncio.Event()

    def handler(record: Record | Gap) -> None:
        nonlocal counted
        assert isinstance(record, Record), record
        counted += 1
        if counted == events:
            all_read.set()

    head = await transport.head(tuple(make_partitions(settings).names()))
    async with transport.on_message(handler) as tail:
        tail.follow(head.positions)
        while not tail.running:  # noqa: ASYNC110 — the tail has no event to wait for
            await asyncio.sleep(0.01)
        await started()
        before = time.process_time()
        await all_read.wait()
        report(before, events)
    await transport.aclose()


async def started() -> None:
    """Say that the process is ready, and wait for a line without blocking the loop."""
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


def report(before: float, events: int) -> None:
    """Print the CPU time since `before`, in µs per event."""
    print(json.dumps({"cpu_us": (time.process_time() - before) / events * 1e6}), flush=True)


def main() -> None:
    """Run one of the two."""
    numbers = [int(word) for word in sys.argv[2:]]
    uvloop.run(append(*numbers) if sys.argv[1] == "append" else follow(*numbers))


if __name__ == "__main__":
    main()
