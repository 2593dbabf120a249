"""The circuit before a store: what is known to be away is asked by one call at a time, and found when it is back."""

import asyncio
from types import SimpleNamespace

import pytest
from tidewire.errors import TransportUnavailable
from tidewire.primitives import circuit_breaker
from tidewire.primitives.circuit_breaker import CAP, LOSSES, Circuit
from tidewire.primitives.counters import CIRCUIT_OPENED, CIRCUIT_REFUSED

from tests.clocks import Clock


class Lost(Exception):
    """What the driver raises where the store is away."""


class Refused(Exception):
    """What the driver raises where the store says no."""


class Store:
    """Answers, or does not, as a test wants."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def __call__(self) -> str:
        self.asked += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return "answer"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(circuit_breaker, "time", SimpleNamespace(monotonic=clock))
    return clock


def make_circuit(hold: float = 0.0) -> Circuit:
    return Circuit((Lost,), lambda _: TransportUnavailable("the store is away"), lambda _: hold)


async def opened(circuit: Circuit, store: Store) -> None:
    """Lose as many calls as it takes."""
    store.error = Lost()
    for _ in range(LOSSES):
        await fails(circuit, store)
    assert circuit.is_open
    store.asked = 0


async def fails(circuit: Circuit, store: Store, *, ask: bool = False) -> TransportUnavailable:
    with pytest.raises(TransportUnavailable, match="the store is away") as caught:
        await circuit.run(store, ask=ask)
    return caught.value


async def test_after_a_lost_call_nobody_asks_until_a_moment_has_passed(clock: Clock) -> None:
    guard, store = make_circuit(), Store()
    times, refused = CIRCUIT_OPENED.value(), CIRCUIT_REFUSED.value()
    await opened(guard, store)
    for _ in range(100):
        assert (await fails(guard, store)).retry_after == 1
    assert store.asked == 0
    assert CIRCUIT_OPENED.value() - times == 1
    assert CIRCUIT_REFUSED.value() - refused == 100
    clock.advance(CAP)
    store.error = None
    assert await guard.run(store) == "answer"
    assert not guard.is_open


async def test_only_one_call_finds_out_and_the_others_do_not_wait_for_its_time_out(clock: Clock) -> None:
    guard, store = make_circuit(), Store()
    await opened(guard, store)
    clock.advance(CAP)
    store.answers.clear()
    probe = asyncio.create_task(fails(guard, store))
    await asyncio.sleep(0)
    for _ in range(10):
        await fails(guard, store)
    assert store.asked == 1
    store.answers.set()
    await probe


async def test_a_probe_that_is_given_up_lets_the_next_one_find_out(clock: Clock) -> None:
    guard, store = make_circuit(), Store()
    await opened(guard, store)
    clock.advance(CAP)
    store.answers.clear()
    probe = asyncio.create_task(guard.run(store))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    store.answers.set()
    store.error = None
    assert await guard.run(store) == "answer"


async def test_the_moments_grow_while_it_stays_away_but_not_by_calls_that_were_lost_together(clock: Clock) -> None:
    guard, store = make_circuit(), Store()
    store.error = Lost()
    store.answers.clear()
    together = [asyncio.create_task(fails(guard, store)) for _ in range(50)]
    await asyncio.sleep(0)
    store.answers.set()
    await asyncio.gather(*together)
    assert guard.left <= circuit_breaker.BASE  # one loss, not fifty
    longest = 0.0
    for _ in range(60):
        clock.advance(CAP)
        await fails(guard, store)
        longest = max(longest, guard.left)
        assert guard.left <= CAP
    assert longest > 4 * circuit_breaker.BASE


async def test_a_call_or_two_that_are_lost_keep_nobody_away(clock: Clock) -> None:
    guard, store = make_circuit(), Store()
    for _ in range(10):
        store.error = Lost()
        for _ in range(LOSSES - 1):
            await fails(guard, store)
        store.error = None
        assert await guard.run(store) == "answer"


async def test_a_no_is_an_answer_and_keeps_nobody_away() -> None:
    guard, store = make_circuit(), Store()
    store.error = Refused()
    for _ in range(3):
        with pytest.raises(Refused):
            await guard.run(store)
    assert store.asked == 3


async def test_a_health_check_is_let_through_and_what_it_finds_is_for_all(clock: Clock) -> None:
    guard, store = make_circuit(), Store()
    await opened(guard, store)
    await fails(guard, store, ask=True)
    assert store.asked == 1
    store.error = None
    assert await guard.run(store, ask=True) == "answer"
    assert await guard.run(store) == "answer"


async def test_a_store_that_asks_to_be_left_alone_is_also_by_health_checks(clock: Clock) -> None:
    guard, store = make_circuit(hold=20.0), Store()
    store.error = Lost()
    await fails(guard, store)
    clock.advance(15.0)
    assert (await fails(guard, store, ask=True)).retry_after == 5
    assert store.asked == 1
    clock.advance(5.0)
    await fails(guard, store, ask=True)
    assert store.asked == 2
