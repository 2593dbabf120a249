"""Latency from an append in one process to the handler in another: `bench.tail_pair EVENTS RATE SIZE`.

The counterpart of bench/client/redispair.c with our transport instead of raw RESP: the same time stamps, the same line
of JSON. Settings come from the environment.
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
from tidewire.wiring import make_transport

WARMUP = 100  # records not counted, as in redispair.c


async def read(events: int, ready: int, seconds: float) -> list[int]:
    """Follow the log and return the latencies in ns. Raises TimeoutError if events are missing after `seconds`."""
    transport = make_transport(Settings.from_env(os.environ))
    assert isinstance(transport, Log)
    latencies: list[int] = []
    all_read = asyncio.Event()

    def handler(record: Record | Gap) -> None:
        assert isinstance(record, Record), record
        latencies.append(time.monotonic_ns() - int(record.event.data[1:20].lstrip(b"0")))
        if len(latencies) == events + WARMUP:
            all_read.set()

    head = await transport.head(["all"])
    async with transport.on_message(handler) as tail:
        tail.follow(head.positions)
        while not tail.running:  # noqa: ASYNC110 — the tail has no event to wait for
            await asyncio.sleep(0.01)
        os.write(ready, b"r")
        async with asyncio.timeout(seconds):
            await all_read.wait()
    await transport.aclose()
    return sorted(latencies[WARMUP:])


async def write(events: int, rate: float, size: int) -> None:
    """Publish single events at a fixed rate, each with the time just before it is sent."""
    transport = make_transport(Settings.from_env(os.environ))
    due = time.monotonic()
    for _ in range(events + WARMUP):
        due += 1 / rate
        await asyncio.sleep(due - time.monotonic())
        stamp = b'"%019d' % time.monotonic_ns()
        await transport.publish([Event(new_id(), "bench", stamp + b"x" * (size - len(stamp) - 1) + b'"')])
    await transport.aclose()


def main() -> None:
    """Fork a reader, publish, and print the latencies."""
    events, rate, size = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    ready_out, ready_in = os.pipe()
    child = os.fork()
    if child == 0:
        ns = uvloop.run(read(events, ready_in, (events + WARMUP) / rate + 30))
        quantiles = {f"p{q}": ns[min(len(ns) * q // 100, len(ns) - 1)] / 1e3 for q in (50, 90, 99)}
        print(json.dumps({"events": events, "latency_us": quantiles | {"max": ns[-1] / 1e3}}), flush=True)
        os._exit(0)
    os.close(ready_in)
    if os.read(ready_out, 1) != b"r":
        sys.exit("the reader ended before it read")
    uvloop.run(write(events, rate, size))
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
