"""When the circuit breaker of a Redis transport opens."""

import pytest
from tidewire.errors import TransportUnavailable
from tidewire.primitives.circuit_breaker import LOSSES
from tidewire.transports.errors import CommandError, ConnectionLost, NotServing, ReadTimeout
from tidewire.transports.redis.pool import make_circuit_breaker, unavailable


@pytest.mark.parametrize("error", [ConnectionLost("EOF"), ReadTimeout("no answer in time"), NotServing("LOADING")])
async def test_the_breaker_opens_when_redis_is_unavailable(error: Exception) -> None:
    breaker = make_circuit_breaker()

    async def fail() -> None:
        raise error

    for _ in range(LOSSES):
        with pytest.raises(TransportUnavailable) as caught:
            await breaker.run(fail)
        assert caught.value.detail == unavailable(error).detail
        assert caught.value.detail == f"Redis cannot be used now ({type(error).__name__}: {error})"
    assert breaker.is_open


async def test_a_refusal_does_not_open_the_breaker() -> None:
    breaker = make_circuit_breaker()

    async def fail() -> None:
        raise CommandError("OOM no memory")

    for _ in range(LOSSES):
        with pytest.raises(CommandError):
            await breaker.run(fail)
    assert not breaker.is_open
