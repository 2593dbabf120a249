"""Authentication: keys, tokens, and a deployment without authentication."""

import pytest
from tidewire.tools.doctor import Deployment, Limits

from tests.integration.doctor.conftest import HEARTBEAT, LIMITS, findings, with_verdict
from tests.support.processes import Instance
from tests.support.tokens import LIMITED_KEY, MINTING_KEY, SECRET, token, user_token

WHO = ("anonymous-publish", "wrong-key", "publish", "token", "ticket", "forged-token")


async def test_a_wrong_key_fails_one_check_and_skips_others(instance: Instance) -> None:
    found = await findings(instance.url, key="not-the-key-of-this-deployment")
    assert with_verdict(found, "fail") == ["publish"]
    assert "the key is refused: 401" in found["publish"].reason
    assert "TIDEWIRE_KEY" in found["publish"].advice
    assert "REALTIME_PUBLISH_KEYS" in found["publish"].advice
    needs = ["token", "ticket", "forged-token", "cors-stream", "long-poll", "stream", "buffering", "latency", "resume"]
    assert set(needs) <= set(with_verdict(found, "skip"))
    assert all(finding.reason for finding in found.values())


async def test_names_the_type_that_a_limited_key_lacks(instance: Instance) -> None:
    found = await findings(instance.url, *WHO, key=LIMITED_KEY)
    assert with_verdict(found, "fail") == ["publish"]
    assert "403" in found["publish"].reason
    assert ":tidewire.doctor" in found["publish"].advice
    assert "realtime.tokens" in found["token"].reason


async def test_a_key_for_nothing_but_the_doctor_is_enough(instance: Instance) -> None:
    found = await findings(instance.url, *WHO, "long-poll", key=MINTING_KEY)
    assert with_verdict(found, "ok") == [*WHO, "long-poll"], found


async def test_finds_a_token_of_another_deployment(instance: Instance) -> None:
    """And does not confuse it with a wrong key."""
    foreign = token({"sub": "u1"}, "another-secret-of-at-least-32-bytes-length")
    found = await findings(instance.url, *WHO, token=foreign)
    assert with_verdict(found, "fail") == ["token"]
    assert "its signature does not match" in found["token"].reason
    assert "TIDEWIRE_TOKEN" in found["token"].advice


async def test_a_token_alone_runs_the_checks_without_events(instance: Instance) -> None:
    found = await findings(instance.url, key=None, token=user_token("u1"))
    assert with_verdict(found, "fail") == []
    assert {"token", "ticket", "forged-token", "cors-stream", "stream", "heartbeats"} <= set(with_verdict(found, "ok"))
    assert {"publish", "long-poll", "latency", "resume"} <= set(with_verdict(found, "skip"))
    assert "TIDEWIRE_KEY" in found["latency"].advice


async def test_a_token_without_a_user_is_not_used(instance: Instance) -> None:
    """Its events would be events for everyone."""
    found = await findings(instance.url, "token", key=None, token=user_token(None))
    assert found["token"].verdict == "skip"
    assert "events for everyone" in found["token"].reason


@pytest.mark.parametrize(("secret", "verdict"), [(SECRET, "ok"), ("x" * 32, "fail")])
async def test_a_token_signed_here_needs_the_right_secret(instance: Instance, secret: str, verdict: str) -> None:
    found = (await findings(instance.url, "token", key=None, environ={"REALTIME_JWT_SECRET": secret}))["token"]
    assert found.verdict == verdict
    assert "signed here with REALTIME_JWT_SECRET" in found.reason
    assert "REALTIME_JWT_SECRET" in found.advice or verdict == "ok"


async def test_authentication_off_fails_unless_local(open_instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await findings(open_instance.url, key=None)
    assert (with_verdict(found, "fail"), with_verdict(found, "warn")) == ([], ["anonymous-publish"])
    assert with_verdict(found, "skip") == ["store", "wrong-key", "token", "ticket", "forged-token"]
    monkeypatch.setattr(Deployment, "is_local", False)
    elsewhere = await findings(open_instance.url, "health", "anonymous-publish", "metrics", key=None)
    assert elsewhere["anonymous-publish"].verdict == "fail"
    assert "REALTIME_PUBLISH_KEYS" in elsewhere["anonymous-publish"].advice
    assert with_verdict(elsewhere, "warn") == ["health", "metrics"]
    assert "REALTIME_TRANSPORT" in elsewhere["health"].advice


async def test_a_rate_limit_ends_the_samples_not_the_check(open_instance: Instance) -> None:
    limits = Limits(answer=LIMITS.answer, heartbeat=HEARTBEAT, samples=100)
    found = await findings(open_instance.url, "anonymous-publish", "stream", "latency", key=None, limits=limits)
    assert found["latency"].verdict == "ok"
    assert 1 <= float(found["latency"].measured["samples"]) < 40
    assert "cut short by the rate limit of the key: 429" in found["latency"].reason
