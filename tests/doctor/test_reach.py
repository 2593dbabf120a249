"""What this shell says, and who answers there: what is wrong with the way is told apart."""

import asyncio
import json
import socket
import ssl
import time
from pathlib import Path
from typing import NoReturn

import pytest
from tidewire.tools.doctor import CHECKS, Limits

from tests.certificates import certify
from tests.doctor import lines
from tests.doctor.conftest import HEARTBEAT, findings, with_verdict
from tests.functions.tokens import token, user_token
from tests.processes import HOST, Instance, MakeRedis, free_port

KEY = "a-publish-key-that-is-long-enough"
LIVE = json.dumps({"status": "live", "info": {"title": "Tidewire", "version": "9.1"}}).encode()


@pytest.mark.parametrize(
    ("given", "verdict", "said", "advised"),
    [
        ({}, "ok", "https://app.example.com, with a key", ""),
        ({"url": "http://app.example.com"}, "fail", "everyone on the way can read", "https://"),
        ({"url": "http://127.0.0.1:8787"}, "ok", "with a key", ""),
        ({"url": "https://me:hunter2@app.example.com"}, "fail", "holds a user or password", "TIDEWIRE_KEY"),
        ({"url": "https://app.example.com/api"}, "fail", "not the address alone", "without /api"),
        ({"url": "http://127.0.0.1:8787", "url_given": False}, "warn", "TIDEWIRE_URL is not set", "--url"),
        ({"key": None}, "fail", "TIDEWIRE_KEY is not set", "REALTIME_PUBLISH_KEYS"),
        ({"key": None, "token": user_token("u1")}, "warn", "TIDEWIRE_KEY is not set", "REALTIME_PUBLISH_KEYS"),
        ({"key": None, "url": "http://localhost"}, "ok", "with no credentials", ""),
        ({"key": "hunter2 \n"}, "fail", "no header can carry", "no quotes, no line end"),
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
async def test_settings_are_judged_before_anything_is_sent_and_never_repeated(
    given: dict[str, object], verdict: str, said: str, advised: str
) -> None:
    asked = {"url": "https://app.example.com", "key": KEY, **given}
    found = (await findings(str(asked.pop("url")), "settings", **asked))["settings"]  # type: ignore[arg-type]
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
async def test_the_settings_of_its_redis_are_judged(
    make_redis: MakeRedis, options: tuple[str, ...], verdict: str, said: str
) -> None:
    """An evicting policy has ids appended twice, and cluster mode refuses the reads of the tail."""
    redis = await asyncio.to_thread(make_redis, aof=False, options=options)
    environ = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": redis.url, "REALTIME_AUTH": "none"}
    found = (await findings("https://app.example.com", "settings", key=KEY, environ=environ))["settings"]
    assert found.verdict == verdict, found
    assert said in found.reason


async def test_an_unreachable_server_ends_it_at_once_and_the_rest_is_skipped_with_the_reason() -> None:
    began = time.monotonic()
    found = await findings(f"http://{HOST}:{free_port()}")
    assert time.monotonic() - began < 5
    assert with_verdict(found, "fail") == ["reachability"]
    assert found["reachability"].reason.startswith("nothing listens at 127.0.0.1:")
    assert "PORT" in found["reachability"].advice
    assert with_verdict(found, "skip") == list(CHECKS)[2:]
    assert {finding.reason for finding in found.values() if finding.verdict == "skip"} == {
        "nobody answers: see `reachability`"
    }


async def test_a_name_that_nobody_knows_is_a_fault_of_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    found = (await findings("https://app.example.com", "reachability"))["reachability"]
    assert (found.verdict, found.measured["fault"]) == ("fail", "dns")
    assert "the name app.example.com cannot be resolved" in found.reason
    assert "CNAME" in found.advice


async def test_a_certificate_that_nobody_vouches_for_and_a_port_without_tls_are_faults_of_tls(
    instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tls.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, certify(file))
    async with lines.answering(lambda _: LIVE, context) as url:
        found = (await findings(url, "reachability"))["reachability"]
        assert (found.verdict, found.measured["fault"]) == ("fail", "tls")
        assert "the certificate of 127.0.0.1 does not hold" in found.reason
        assert "SSL_CERT_FILE" in found.advice
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        found = (await findings(url, "reachability"))["reachability"]
        assert (found.verdict, found.measured["certificateDays"]) == ("warn", 0)
        assert "the certificate ends in 0 days" in found.reason
    plain = (await findings(instance.url.replace("http", "https"), "reachability"))["reachability"]
    assert (plain.verdict, plain.measured["fault"]) == ("fail", "tls")
    assert "no handshake" in plain.reason


async def test_something_else_that_answers_and_an_address_that_redirects_are_told_apart() -> None:
    async with lines.answering(lambda _: b"<h1>hello</h1>") as url:
        found = (await findings(url, "reachability"))["reachability"]
    assert (found.verdict, "not Tidewire" in found.reason, "/api/" in found.advice) == ("fail", True, True)
    moved = b"HTTP/1.1 308 Moved\r\nlocation: https://app.example.com/login?secret=hunter2\r\ncontent-length: 0\r\n\r\n"
    async with lines.answering(lambda _: moved) as url:
        found = (await findings(url, "reachability"))["reachability"]
    assert (found.verdict, found.reason) == ("fail", "the address redirects to https://app.example.com/")


async def test_answers_that_make_no_sense_are_findings_and_break_nothing() -> None:
    body = json.dumps({"events": [1], "cursor": "c", "ticket": "t", "url": "/x", "token": "t.t.t"})

    def answer(head: bytes) -> bytes:
        if head.startswith((b"GET /api/health", b"GET /api/openapi")):
            return LIVE
        status = 401 if b"bearer" not in head.lower() else 202 if b"/api/publish" in head else 200
        return f"HTTP/1.1 {status} Told\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()

    limits = Limits(answer=1.0, heartbeat=HEARTBEAT)
    async with lines.answering(answer) as url:
        found = await findings(url, key=KEY, limits=limits)
    failed = ["wrong-key", "publish", "forged-token", "cors", "cors-stream", "long-poll", "stream", "page"]
    assert with_verdict(found, "fail") == failed, found


async def test_a_front_that_keeps_health_and_metrics_to_itself_is_no_failure(instance: Instance) -> None:
    async with lines.keeps_operations_private(instance).open() as line:
        found = await findings(line.address, "reachability", "health", "clock", "metrics")
    assert with_verdict(found, "ok") == ["reachability", "clock"]
    assert with_verdict(found, "skip") == ["health", "metrics"]


async def test_a_secret_that_an_answer_repeats_is_not_told() -> None:
    def echo(head: bytes) -> bytes:
        body = json.dumps({"detail": head.decode()}).encode()
        headers = b"content-type: application/problem+json\r\ncontent-length: %d\r\n\r\n" % len(body)
        return b"HTTP/1.1 418 Teapot\r\n" + headers + body

    async with lines.answering(echo) as url:
        found = (await findings(url, "publish", key=KEY))["publish"]
    assert "authorization: Bearer [secret]" in found.reason
    assert KEY not in str(found)
