"""Per partition nothing is lost, repeated or reordered across reconnections, and every jump is a gap: in any order of
publishing, subscribing, dropping, stalling, trimming, wiping and replacing instances.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.contract.stores import LogStore, MemoryStore, RedisStore
from tests.properties.machine import StreamMachine
from tests.support.clocks import VirtualTimeLoop
from tests.support.processes import RedisServer


class MemoryMachine(StreamMachine):
    """In virtual time, and with pauses of any length at each point where another log would do I/O."""

    def make_runner(self) -> asyncio.Runner:
        return asyncio.Runner(loop_factory=VirtualTimeLoop)

    def make_store(self, pause: Callable[[], Any]) -> LogStore:
        return MemoryStore(pause)

    async def pass_heartbeat(self) -> None:
        await asyncio.sleep(self.hubs[0].heartbeat)


def redis_machine(url: str) -> type[StreamMachine]:
    """The machine on a real Redis, whose connections may be cut too."""

    class RedisMachine(StreamMachine):
        # After a wipe in place, a reader may be ahead of the tail until the tail notices, and reads again
        # each heartbeat.
        heartbeat_seconds = 1.0

        def make_runner(self) -> asyncio.Runner:
            return asyncio.Runner()

        def make_store(self, pause: Callable[[], Any]) -> LogStore:
            store = RedisStore(url)
            self.runner.run(store.wipe())
            return store

        @rule()
        def cut_connections(self) -> None:
            self.runner.run(self._cut())

        async def _cut(self) -> None:
            assert isinstance(self.store, RedisStore)
            for client in await self.store.client.client_list(_type="normal"):
                if self.dice.random() < 0.5 and client["cmd"] != "client|list":
                    await self.store.client.client_kill_filter(_id=client["id"])

    return RedisMachine


def test_streams_from_memory_keep_their_promises() -> None:
    run_state_machine_as_test(MemoryMachine, settings=settings(max_examples=200, stateful_step_count=30))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("examples", [8, pytest.param(25, marks=pytest.mark.full)])
def test_streams_from_redis_keep_their_promises(redis_server: RedisServer, examples: int) -> None:
    run_state_machine_as_test(
        redis_machine(redis_server.url), settings=settings(max_examples=examples, stateful_step_count=25)
    )
