"""`x-nf-sign`: requests that did not come through the site are refused."""

import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest
from tidewire.http.local import app
from tidewire.security.signed_rewrites import LEEWAY
from tidewire.settings.config import Settings
from tidewire.wiring import make_hub

SECRET = "the secret of the site's signed rewrites, and long enough for every HMAC"


def signature(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """Netlify's signature, with some claims replaced; None omits a claim."""
    payload = {
        "iss": "netlify",
        "exp": time.time() + 300,
        "deploy_context": "production",
        "netlify_id": "3970e0fe-8564-4903-9a55-c5f8de49fb8b",
        "site_url": "https://app.example.com",
        **claims,
    }
    return jwt.encode({name: value for name, value in payload.items() if value is not None}, secret, algorithm)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """An instance that takes only signed requests, in this process."""
    settings = Settings.from_env({"REALTIME_NETLIFY_SECRET": SECRET})
    async with make_hub(settings) as hub:
        transport = httpx.ASGITransport(app(hub, settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://functions") as client:
            yield client


async def publish(client: httpx.AsyncClient, signature: str | bytes | None) -> int:
    headers = (
        [] if signature is None else [(b"x-nf-sign", signature if isinstance(signature, bytes) else signature.encode())]
    )
    response = await client.post("/api/publish", json={"type": "signed", "data": 1}, headers=headers)
    if response.status_code != 202:
        assert response.headers["content-type"] == "application/problem+json"
        assert "x-nf-sign" in response.json()["detail"]
    return response.status_code


async def test_requests_through_the_site_are_accepted(client: httpx.AsyncClient) -> None:
    assert await publish(client, signature()) == 202


async def test_netlifys_clock_may_be_a_little_ahead_of_ours(client: httpx.AsyncClient) -> None:
    assert await publish(client, signature(exp=time.time() - LEEWAY / 2)) == 202


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "",
        "not a token",
        "a.b.c",
        b"\xe9.b.c",
        signature(SECRET.replace("site", "sight")),
        signature(exp=time.time() - 2 * LEEWAY),
        signature(exp=None),
        signature(iss="somebody"),
        signature(iss=None),
        signature(algorithm="HS512"),
        jwt.encode({"iss": "netlify", "exp": time.time() + 300}, "", "none"),
    ],
    ids=itertools.count(),  # signatures hold the time: two workers would not collect the same tests
)
async def test_whoever_goes_past_the_site_is_refused(client: httpx.AsyncClient, wrong: str | bytes | None) -> None:
    assert await publish(client, wrong) == 403


@pytest.mark.parametrize("path", ["/api/metrics", "/api/openapi.json", "/api/no-such-path"])
async def test_every_other_path_requires_the_signature_too(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 403


@pytest.mark.parametrize("path", ["/api/health/live", "/api/health/ready"])
async def test_health_needs_no_signature(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 200


async def test_a_stream_is_opened_directly_for_no_rewrite_carries_one(client: httpx.AsyncClient) -> None:
    page = await client.get("/api/events", headers={"accept": "application/json"})
    assert page.status_code == 200
