"""The client against a real server, over a network that fails."""

import asyncio
import itertools
import time

import pytest
from tidewire.client import Event, Gap, State, subscribe
from tidewire.errors import Forbidden, Unauthorized

from tests.integration.client.proxy import BufferingProxy, CuttingProxy, Proxy
from tests.support.api import unique
from tests.support.clients import event, publish, read_page
from tests.support.processes import Instance, MakeInstance, StartInstance
from tests.support.tokens import PUBLISH_KEY, SECRET, user_token

DEADLINE = 20.0  # seconds; only a failing test waits so long


@pytest.fixture(scope="session")
def instance(start_instance: StartInstance) -> Instance:
    """An instance in memory that the tests share; each has its own user."""
    settings = {"REALTIME_RETRY": "0s", "REALTIME_HEARTBEAT": "100ms"}
    return start_instance(settings)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnects at once; other tests check the delays."""
    monkeypatch.setattr("tidewire.client.subscription.backoff", lambda *_: 0.0)


async def publish_many(instance: Instance, user: str, numbers: range) -> list[str]:
    """Publish events of all sizes, each followed by one for another user."""
    names = [f"{user}-{n}" for n in numbers]
    events = [event(name, user) for name in names]
    for n, mine in zip(numbers, events, strict=True):
        mine["data"]["filler"] = "ä" * (n * 37 % 400)
    others = [event(f"other-{name}", f"other-{user}") for name in names]
    await publish(instance, *itertools.chain.from_iterable(zip(events, others, strict=True)))
    return names


@pytest.mark.parametrize("seed", range(3))
async def test_connections_cut_at_any_byte_lose_and_double_nothing(
    instance: Instance, seed: int, impatient: None
) -> None:
    user = unique("u")
    expected = await publish_many(instance, user, range(40))
    async with CuttingProxy(instance, seed, maximum=8_000).open() as proxy, asyncio.timeout(DEADLINE):
        seen: list[str] = []
        async with subscribe(proxy.url, user_id=user, start="earliest") as subscription:
            async for item in subscription:
                assert isinstance(item, Event), item
                seen.append(item.data["name"])
                if len(seen) == 20:
                    expected += await publish_many(instance, user, range(40, 60))
                if seen[-1] == f"{user}-59":
                    break
    assert seen == expected
    assert proxy.cuts > 5, "the network was meant to fail"


async def test_a_gap_is_announced_wherever_the_connection_is_cut(make_instance: MakeInstance, impatient: None) -> None:
    instance = make_instance(REALTIME_RETRY="0s", REALTIME_MAX_EVENTS="5")
    await publish(instance, event("before"))
    cursor = (await read_page(instance))["cursor"]
    await publish(instance, *(event(f"n{n}") for n in range(10)))
    for seed in range(5):
        async with CuttingProxy(instance, seed, maximum=700).open() as proxy, asyncio.timeout(DEADLINE):
            items: list[Event | Gap] = []
            async with subscribe(proxy.url, cursor=cursor) as subscription:
                async for item in subscription:
                    items.append(item)
                    if isinstance(item, Event) and item.data["name"] == "n9":
                        break
        assert isinstance(items[0], Gap)
        assert items[0].reason == "trimmed"
        assert [item.data["name"] for item in items if isinstance(item, Event)] == [f"n{n}" for n in range(5, 10)]


async def test_behind_a_proxy_that_buffers_it_gets_everything_by_pages(
    instance: Instance, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidewire.client.subscription.FIRST_BYTE", 1.0)
    user = unique("u")
    states: list[State] = []
    live = asyncio.Event()

    def on_state(state: State) -> None:
        states.append(state)
        if state.name == "live":
            live.set()

    async with BufferingProxy(instance).open() as proxy, asyncio.timeout(DEADLINE):
        expected = await publish_many(instance, user, range(2))
        async with subscribe(proxy.url, user_id=user, start="earliest", on_state=on_state) as subscription:
            seen = [(await anext(subscription)) for _ in range(2)]
            following = asyncio.create_task(anext(subscription))
            await live.wait()
            expected += await publish_many(instance, user, range(2, 3))
            seen.append(await following)
    assert [item.data["name"] for item in seen if isinstance(item, Event)] == expected
    assert {state.mode for state in states if state.name == "live"} == {"poll"}


async def test_another_instance_continues_after_a_killed_one(
    make_instance: MakeInstance, redis_url: str, impatient: None
) -> None:
    settings = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": redis_url, "REALTIME_AUTH": "none", "REALTIME_RETRY": "0s"}
    instance = make_instance(**settings)
    proxy = Proxy(instance)
    async with proxy.open(), asyncio.timeout(DEADLINE):
        await publish(instance, event("a"))
        async with subscribe(proxy.url, start="earliest") as subscription:
            seen = [await anext(subscription)]
            await asyncio.to_thread(instance.kill)
            proxy.instance = await asyncio.to_thread(lambda: make_instance(**settings))
            await publish(proxy.instance, event("b"), event("c"))
            seen += [await anext(subscription) for _ in range(2)]
    assert [item.data["name"] for item in seen if isinstance(item, Event)] == ["a", "b", "c"]


async def test_a_token_of_a_clock_that_is_ahead_is_waited_for(make_instance: MakeInstance) -> None:
    """Clients stopped for good, although the same token was valid a moment later."""
    instance = make_instance(REALTIME_JWT_SECRET=SECRET, REALTIME_PUBLISH_KEYS=PUBLISH_KEY, REALTIME_RETRY="0s")
    states, live = list[State](), asyncio.Event()

    def enter(state: State) -> None:
        states.append(state)
        if state.name == "live":
            live.set()

    early = user_token("u1", nbf=int(time.time()) + 8, iat=int(time.time()) + 8)
    url = f"{instance.url}/api/events"
    async with asyncio.timeout(DEADLINE), subscribe(url, early, on_state=enter) as subscription:
        waiting = asyncio.ensure_future(anext(subscription))
        await live.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert [state.name for state in states[:3]] == ["connecting", "waiting", "connecting"]
    assert states[1].detail == "401: The token is not valid yet"


async def test_a_wrong_token_and_a_forbidden_type_are_refused(make_instance: MakeInstance) -> None:
    instance = make_instance(REALTIME_JWT_SECRET=SECRET, REALTIME_PUBLISH_KEYS=PUBLISH_KEY)
    url = f"{instance.url}/api/events"
    with pytest.raises(Unauthorized, match="401: The token is not a JWT"):
        await anext(subscribe(url, "nonsense"))
    with pytest.raises(Forbidden, match="403: The token does not allow the type 'b'"):
        await anext(subscribe(url, lambda: user_token("u1", types=["a"]), types=["b"]))
