"""The circuit breaker: a store that is unavailable gets one call at a time, and is found when it is back."""

import asyncio
from types import SimpleNamespace

import pytest
from tidewire.errors import TransportUnavailable
from tidewire.primitives import circuit_breaker
from tidewire.primitives.circuit_breaker import CAP, LOSSES, CircuitBreaker
from tidewire.primitives.counters import CIRCUIT_OPENED, CIRCUIT_REFUSED

from tests.support.clocks import Clock
from tests.support.waiting import spin


class Lost(Exception):
    """Raised by a driver whose store is unavailable."""


class Refused(Exception):
    """Raised by a driver whose store refuses."""


class Store:
    """Answers or fails as the test wants."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def __call__(self) -> str:
        self.calls += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return "answer"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(circuit_breaker, "time", SimpleNamespace(monotonic=clock))
    return clock


def make_breaker(hold: float = 0.0) -> CircuitBreaker:
    return CircuitBreaker((Lost,), lambda _: TransportUnavailable("the store is unavailable"), lambda _: hold)


async def opened(breaker: CircuitBreaker, store: Store) -> None:
    """Lose enough calls to open the circuit."""
    store.error = Lost()
    for _ in range(LOSSES):
        await fails(breaker, store)
    assert breaker.is_open
    store.calls = 0


async def fails(breaker: CircuitBreaker, store: Store, *, even_if_open: bool = False) -> TransportUnavailable:
    with pytest.raises(TransportUnavailable, match="the store is unavailable") as caught:
        await breaker.run(store, even_if_open=even_if_open)
    return caught.value


async def test_open_circuit_calls_nothing(clock: Clock) -> None:
    """Until the pause is over, calls fail without a try; then one call closes the circuit."""
    breaker, store = make_breaker(), Store()
    times, refused = CIRCUIT_OPENED.value(), CIRCUIT_REFUSED.value()
    await opened(breaker, store)
    for _ in range(100):
        assert (await fails(breaker, store)).retry_after == 1
    assert store.calls == 0
    assert CIRCUIT_OPENED.value() - times == 1
    assert CIRCUIT_REFUSED.value() - refused == 100
    clock.advance(CAP)
    store.error = None
    assert await breaker.run(store) == "answer"
    assert not breaker.is_open


async def test_half_open_lets_one_call_through(clock: Clock) -> None:
    """The others fail at once instead of waiting for the probe's time-out."""
    breaker, store = make_breaker(), Store()
    await opened(breaker, store)
    clock.advance(CAP)
    store.answers.clear()
    probe = asyncio.create_task(fails(breaker, store))
    await spin()
    for _ in range(10):
        await fails(breaker, store)
    assert store.calls == 1
    store.answers.set()
    await probe


async def test_cancelled_probe_leaves_the_next_one(clock: Clock) -> None:
    breaker, store = make_breaker(), Store()
    await opened(breaker, store)
    clock.advance(CAP)
    store.answers.clear()
    probe = asyncio.create_task(breaker.run(store))
    await spin()
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    store.answers.set()
    store.error = None
    assert await breaker.run(store) == "answer"


async def test_pause_grows_once_per_outage_step(clock: Clock) -> None:
    """Fifty calls that are lost together count as one loss."""
    breaker, store = make_breaker(), Store()
    store.error = Lost()
    store.answers.clear()
    together = [asyncio.create_task(fails(breaker, store)) for _ in range(50)]
    await spin()
    store.answers.set()
    await asyncio.gather(*together)
    assert breaker.seconds_left <= circuit_breaker.BASE  # one loss, not fifty
    longest = 0.0
    for _ in range(60):
        clock.advance(CAP)
        await fails(breaker, store)
        longest = max(longest, breaker.seconds_left)
        assert breaker.seconds_left <= CAP
    assert longest > 4 * circuit_breaker.BASE


async def test_fewer_losses_than_the_limit_open_nothing(clock: Clock) -> None:
    breaker, store = make_breaker(), Store()
    for _ in range(10):
        store.error = Lost()
        for _ in range(LOSSES - 1):
            await fails(breaker, store)
        store.error = None
        assert await breaker.run(store) == "answer"


async def test_a_refusal_is_an_answer() -> None:
    breaker, store = make_breaker(), Store()
    store.error = Refused()
    for _ in range(3):
        with pytest.raises(Refused):
            await breaker.run(store)
    assert store.calls == 3


async def test_health_check_passes_and_closes_the_circuit(clock: Clock) -> None:
    breaker, store = make_breaker(), Store()
    await opened(breaker, store)
    await fails(breaker, store, even_if_open=True)
    assert store.calls == 1
    store.error = None
    assert await breaker.run(store, even_if_open=True) == "answer"
    assert await breaker.run(store) == "answer"


async def test_hold_stops_health_checks_too(clock: Clock) -> None:
    """The store asked not to be called (Retry-After)."""
    breaker, store = make_breaker(hold=20.0), Store()
    store.error = Lost()
    await fails(breaker, store)
    clock.advance(15.0)
    assert (await fails(breaker, store, even_if_open=True)).retry_after == 5
    assert store.calls == 1
    clock.advance(5.0)
    await fails(breaker, store, even_if_open=True)
    assert store.calls == 2
