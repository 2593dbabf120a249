"""`python -m tests.faults.crowd PORT COUNT`: many subscribers in one process, which a test kills.

Prints a line once all of them are live, and then reads on.
"""

import asyncio
import sys
from contextlib import AsyncExitStack

from tests.support.clients import open_stream

LIVE = "all are live"


async def main(port: int, count: int) -> None:
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        live = asyncio.Semaphore(0)

        async def read_on(number: int) -> None:
            stream = await stack.enter_async_context(open_stream(port, {"userId": f"user-{number}"}))
            async for events in stream.events():
                if any(event.type == "realtime.ready" for event in events):
                    live.release()

        for number in range(count):
            group.create_task(read_on(number))
        for _ in range(count):
            await live.acquire()
        print(LIVE, flush=True)  # noqa: T201 — the test that started this process reads it


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
