"""The settings of the shell, and reachability: each kind of failure has its own finding."""

import asyncio
import json
import socket
import ssl
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tidewire.tools.doctor import CHECKS, Limits

from tests.integration.doctor import faulty_proxies as proxies
from tests.integration.doctor.conftest import HEARTBEAT, findings, with_verdict
from tests.support.certificates import certify
from tests.support.processes import HOST, Instance, MakeRedis, free_port
from tests.support.tokens import token, user_token

KEY = "a-publish-key-that-is-long-enough"
LIVE = json.dumps({"status": "live", "info": {"title": "Tidewire", "version": "9.1"}}).encode()


@pytest.mark.parametrize(
    ("given", "verdict", "said", "advised"),
    [
        ({}, "ok", "https://app.example.com, with a key", ""),
        ({"url": "http://app.example.com"}, "fail", "travel unencrypted", "https://"),
        ({"url": "http://127.0.0.1:8787"}, "ok", "with a key", ""),
        ({"url": "https://me:hunter2@app.example.com"}, "fail", "contains a user or password", "TIDEWIRE_KEY"),
        ({"url": "https://app.example.com/api"}, "fail", "more than the address", "without /api"),
        ({"url": "http://127.0.0.1:8787", "url_given": False}, "warn", "TIDEWIRE_URL is not set", "--url"),
        ({"key": None}, "fail", "TIDEWIRE_KEY is not set", "REALTIME_PUBLISH_KEYS"),
        ({"key": None, "token": user_token("u1")}, "warn", "TIDEWIRE_KEY is not set", "REALTIME_PUBLISH_KEYS"),
        ({"key": None, "url": "http://localhost"}, "ok", "with no credentials", ""),
        ({"key": "hunter2 \n"}, "fail", "a header cannot carry", "without quotes and line ends"),
        ({"key": f"hunter2{KEY},hunter2{KEY}"}, "fail", "it is a list", "one of REALTIME_PUBLISH_KEYS"),
        ({"key": "hunter2"}, "warn", "only 7 characters", "openssl rand -hex 32"),
        ({"token": "hunter2"}, "fail", "TIDEWIRE_TOKEN is not a JWT", "tidewire token"),
        (
            {"token": token({"sub": "u1", "exp": time.time() - 9})},
            "fail",
            "TIDEWIRE_TOKEN has expired",
            "tidewire token",
        ),
        ({"environ": {"REALTIME_JWT_SECRET": "hunter2"}}, "warn", "REALTIME_JWT_SECRET is shorter", "openssl"),
        (
            {"environ": {"REALTIME_TRANSPORT": "hunter2"}},
            "warn",
            "REALTIME_TRANSPORT: must be",
            "docs/configuration.md",
        ),
        ({"environ": {"REALTIME_TRANSPORT": "redis", "REDIS_URL": "ssm:/a/b"}}, "ok", "with a key", ""),
        (
            {"environ": {"REDIS_URL": "ssm:"}},
            "warn",
            "would not start: REDIS_URL: must be ssm:",
            "docs/configuration.md",
        ),
    ],
)
async def test_settings_are_checked_before_any_request(
    given: dict[str, Any], verdict: str, said: str, advised: str
) -> None:
    """And never repeated in a finding."""
    options = {"url": "https://app.example.com", "key": KEY, **given}
    found = (await findings(options.pop("url"), "settings", **options))["settings"]
    assert found.verdict == verdict, found
    assert said in found.reason
    assert advised in found.advice
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("options", "verdict", "said"),
    [
        (("--maxmemory-policy", "allkeys-lfu"), "warn", "maxmemory-policy is allkeys-lfu"),
        (("--cluster-enabled", "yes"), "fail", "cluster mode"),
        ((), "ok", "with a key"),
    ],
)
async def test_checks_the_settings_of_redis(
    make_redis: MakeRedis, options: tuple[str, ...], verdict: str, said: str
) -> None:
    """With an evicting policy ids are appended twice; cluster mode refuses the reads of the tail."""
    redis = await asyncio.to_thread(make_redis, aof=False, options=options)
    environ = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": redis.url, "REALTIME_AUTH": "none"}
    found = (await findings("https://app.example.com", "settings", key=KEY, environ=environ))["settings"]
    assert found.verdict == verdict, found
    assert said in found.reason


async def test_skips_the_rest_if_the_server_is_unreachable() -> None:
    began = time.monotonic()
    found = await findings(f"http://{HOST}:{free_port()}")
    assert time.monotonic() - began < 5
    assert with_verdict(found, "fail") == ["reachability"]
    assert found["reachability"].reason.startswith("nothing listens on 127.0.0.1:")
    assert "PORT" in found["reachability"].advice
    assert with_verdict(found, "skip") == ["store", *list(CHECKS)[3:]]
    reasons = {finding.reason for name, finding in found.items() if finding.verdict == "skip" and name != "store"}
    assert reasons == {"no response: see `reachability`"}


async def test_an_unknown_name_is_a_dns_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    found = (await findings("https://app.example.com", "reachability"))["reachability"]
    assert (found.verdict, found.measured["fault"]) == ("fail", "dns")
    assert "the name app.example.com cannot be resolved" in found.reason
    assert "CNAME" in found.advice


async def test_finds_tls_faults(instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of an unknown authority, and a port without TLS."""
    file = tmp_path / "tls.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, certify(file))
    async with proxies.answering(lambda _: LIVE, context) as url:
        found = (await findings(url, "reachability"))["reachability"]
        assert (found.verdict, found.measured["fault"]) == ("fail", "tls")
        assert "the certificate of 127.0.0.1 is not valid" in found.reason
        assert "SSL_CERT_FILE" in found.advice
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        found = (await findings(url, "reachability"))["reachability"]
        assert (found.verdict, found.measured["certificateDays"]) == ("warn", 0)
        assert "the certificate expires in 0 days" in found.reason
    plain = (await findings(instance.url.replace("http", "https"), "reachability"))["reachability"]
    assert (plain.verdict, plain.measured["fault"]) == ("fail", "tls")
    assert "handshake" in plain.reason


async def test_finds_another_server_and_a_redirect() -> None:
    async with proxies.answering(lambda _: b"<h1>hello</h1>") as url:
        found = (await findings(url, "reachability"))["reachability"]
    assert (found.verdict, "not Tidewire" in found.reason, "/api/" in found.advice) == ("fail", True, True)
    moved = b"HTTP/1.1 308 Moved\r\nlocation: https://app.example.com/login?secret=hunter2\r\ncontent-length: 0\r\n\r\n"
    async with proxies.answering(lambda _: moved) as url:
        found = (await findings(url, "reachability"))["reachability"]
    assert (found.verdict, found.reason) == ("fail", "the address redirects to https://app.example.com/")


async def test_malformed_responses_are_findings() -> None:
    body = json.dumps({"events": [1], "cursor": "c", "ticket": "t", "url": "/x", "token": "t.t.t"})

    def answer(head: bytes) -> bytes:
        if head.startswith((b"GET /api/health", b"GET /api/openapi")):
            return LIVE
        status = 401 if b"bearer" not in head.lower() else 202 if b"/api/publish" in head else 200
        return f"HTTP/1.1 {status} Told\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()

    limits = Limits(answer=1.0, heartbeat=HEARTBEAT)
    async with proxies.answering(answer) as url:
        found = await findings(url, key=KEY, limits=limits)
    failed = ["wrong-key", "publish", "forged-token", "cors", "cors-stream", "long-poll", "stream", "page"]
    assert with_verdict(found, "fail") == failed, found


async def test_private_health_and_metrics_are_no_failure(instance: Instance) -> None:
    async with proxies.blocks_operations(instance).open() as proxy:
        found = await findings(proxy.address, "reachability", "health", "clock", "metrics")
    assert with_verdict(found, "ok") == ["reachability", "clock"]
    assert with_verdict(found, "skip") == ["health", "metrics"]


async def test_a_repeated_secret_is_replaced() -> None:
    def echo(head: bytes) -> bytes:
        body = json.dumps({"detail": head.decode()}).encode()
        headers = b"content-type: application/problem+json\r\ncontent-length: %d\r\n\r\n" % len(body)
        return b"HTTP/1.1 418 Teapot\r\n" + headers + body

    async with proxies.answering(echo) as url:
        found = (await findings(url, "publish", key=KEY))["publish"]
    assert "authorization: Bearer [secret]" in found.reason
    assert KEY not in str(found)
