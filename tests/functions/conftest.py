"""Instances that tests share: each starts once, for the first test that uses it.

Tests on one log tell their events apart by type or user (`api.unique`), never by what else is in the log.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.api import Api
from tests.support.processes import Instance, RedisServer
from tests.support.tokens import AUDIENCE, ISSUER, LIMITED_KEY, MINTING_KEY, PUBLISH_KEY, SECRET, Issuer
from tests.unit.ingest.webhooks import example

ORIGIN = "https://app.example.com"
HEARTBEAT_MS = 200

OPEN = {"REALTIME_HEARTBEAT": f"{HEARTBEAT_MS}ms", "REALTIME_ALLOWED_ORIGINS": f"{ORIGIN},http://localhost:3000"}


_started: list[Instance] = []


@pytest.fixture(scope="session")
def stack() -> Iterator[ExitStack]:
    """Ends what the session has started."""
    with ExitStack() as stack:
        yield stack
        for instance in _started:
            instance.terminate()  # all at once; each is waited for when its turn comes


def _serve(stack: ExitStack, tmp_path_factory: pytest.TempPathFactory, settings: dict[str, str]) -> Api:
    instance = Instance(tmp_path_factory.mktemp("instance"), settings).start()
    _started.append(instance)
    stack.callback(_stop, instance)
    api = Api(instance)
    stack.callback(api.close)
    return api


def _stop(instance: Instance) -> None:
    instance.wait()
    log = instance.log_file.read_text()
    assert "Traceback" not in log, log


@pytest.fixture(scope="session")
def api(stack: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> Api:
    """One in memory, without authentication."""
    return _serve(stack, tmp_path_factory, OPEN)


@pytest.fixture(scope="session")
def redis_settings(stack: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings of instances that share a Redis of their own."""
    redis = RedisServer(tmp_path_factory.mktemp("redis")).start()
    stack.callback(redis.stop)
    return {**OPEN, "REALTIME_TRANSPORT": "redis", "REDIS_URL": redis.url, "REALTIME_AUTH": "none"}


@pytest.fixture(scope="session")
def redis_api(stack: ExitStack, tmp_path_factory: pytest.TempPathFactory, redis_settings: dict[str, str]) -> Api:
    """One on Redis, without authentication."""
    return _serve(stack, tmp_path_factory, redis_settings)


@pytest.fixture(scope="session")
def short_lived(stack: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> Api:
    """One in memory whose streams end after half a second."""
    return _serve(stack, tmp_path_factory, {**OPEN, "REALTIME_STREAM_SECONDS": "500ms"})


@pytest.fixture(params=["memory", "redis"])
def any_api(request: pytest.FixtureRequest) -> Api:
    """Each of these two in turn, for what a store could break."""
    api = request.getfixturevalue("api" if request.param == "memory" else "redis_api")
    assert isinstance(api, Api)
    return api


@pytest.fixture(scope="session")
def guarded(stack: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> Api:
    """One that requires a publish key, and subscriber tokens signed with the secret."""
    settings = {
        "REALTIME_PUBLISH_KEYS": (
            f"another-key-of-ours,{PUBLISH_KEY},{LIMITED_KEY}:task-*,{LIMITED_KEY}:deploy-ready,"
            f"{MINTING_KEY}:task-*,{MINTING_KEY}:realtime.tokens"
        ),
        "REALTIME_JWT_SECRET": SECRET,
        "REALTIME_HEARTBEAT": f"{HEARTBEAT_MS}ms",
        "REALTIME_ALLOWED_ORIGINS": ORIGIN,
    }
    return _serve(stack, tmp_path_factory, settings)


@pytest.fixture(scope="session")
def brief_memory(stack: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> Api:
    """As `guarded`, with a log that keeps a minute, and streams that are opened elsewhere."""
    settings = {
        "REALTIME_PUBLISH_KEYS": PUBLISH_KEY,
        "REALTIME_JWT_SECRET": SECRET,
        "REALTIME_RETENTION": "60s",
        "REALTIME_STREAM_URL": "https://streams.example.com/api/events",
    }
    return _serve(stack, tmp_path_factory, settings)


@pytest.fixture(scope="session")
def short_guarded(stack: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> Api:
    """As `guarded`, with streams that end after half a second."""
    settings = {
        "REALTIME_PUBLISH_KEYS": PUBLISH_KEY,
        "REALTIME_JWT_SECRET": SECRET,
        "REALTIME_STREAM_SECONDS": "500ms",
    }
    return _serve(stack, tmp_path_factory, settings)


@pytest.fixture(scope="session")
def sharded(stack: ExitStack, tmp_path_factory: pytest.TempPathFactory, redis_settings: dict[str, str]) -> Api:
    """As `guarded`, on Redis, with users spread over four shards."""
    settings = {
        **redis_settings,
        "REALTIME_AUTH": "required",
        "REALTIME_PREFIX": "sharded",
        "REALTIME_USER_SHARDS": "4",
        "REALTIME_PUBLISH_KEYS": PUBLISH_KEY,
        "REALTIME_JWT_SECRET": SECRET,
    }
    return _serve(stack, tmp_path_factory, settings)


@pytest.fixture(scope="session")
def hooked(stack: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> Api:
    """One in memory with the sources of the example in docs/webhooks.md."""
    return _serve(stack, tmp_path_factory, example.SETTINGS)


@pytest.fixture(scope="session")
def issuer(stack: ExitStack) -> Issuer:
    """An issuer whose key set is up."""
    return stack.enter_context(Issuer())


@pytest.fixture(scope="session")
def federated(stack: ExitStack, tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Api:
    """One that trusts the issuer's keys and a secret, so that a confusion of the two would let a test in."""
    settings = {
        "REALTIME_PUBLISH_KEYS": PUBLISH_KEY,
        "REALTIME_JWKS_URL": issuer.url,
        "REALTIME_JWT_SECRET": SECRET,
        "REALTIME_JWT_ISSUER": ISSUER,
        "REALTIME_JWT_AUDIENCE": AUDIENCE,
        "REALTIME_JWT_LEEWAY": "30s",
    }
    return _serve(stack, tmp_path_factory, settings)


@pytest.fixture(params=["memory", "redis, sharded by user"])
def locked(request: pytest.FixtureRequest) -> Api:
    """Authentication required, with and without user shards."""
    api = request.getfixturevalue("guarded" if request.param == "memory" else "sharded")
    assert isinstance(api, Api)
    return api
