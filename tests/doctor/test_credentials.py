"""Who is let in, and who is not: keys, tokens, and a deployment that lets everyone in."""

import pytest
from tidewire.tools.doctor import Deployment, Limits

from tests.doctor.conftest import HEARTBEAT, LIMITS, findings, with_verdict
from tests.functions.tokens import LIMITED_KEY, MINTING_KEY, SECRET, token, user_token
from tests.processes import Instance

WHO = ("anonymous-publish", "wrong-key", "publish", "token", "ticket", "forged-token")


async def test_a_wrong_key_fails_as_what_it_is_and_what_needs_it_is_skipped(instance: Instance) -> None:
    found = await findings(instance.url, key="not-the-key-of-this-deployment")
    assert with_verdict(found, "fail") == ["publish"]
    assert "the key is refused: 401" in found["publish"].reason
    assert "TIDEWIRE_KEY" in found["publish"].advice
    assert "REALTIME_PUBLISH_KEYS" in found["publish"].advice
    needs = ["token", "ticket", "forged-token", "cors-stream", "long-poll", "stream", "buffering", "latency", "resume"]
    assert set(needs) <= set(with_verdict(found, "skip"))
    assert all(finding.reason for finding in found.values())


async def test_a_key_for_other_types_is_told_what_its_list_lacks(instance: Instance) -> None:
    found = await findings(instance.url, *WHO, key=LIMITED_KEY)
    assert with_verdict(found, "fail") == ["publish"]
    assert "403" in found["publish"].reason
    assert ":tidewire.doctor" in found["publish"].advice
    assert "realtime.tokens" in found["token"].reason


async def test_a_key_for_nothing_but_the_doctor_is_enough(instance: Instance) -> None:
    found = await findings(instance.url, *WHO, "long-poll", key=MINTING_KEY)
    assert with_verdict(found, "ok") == [*WHO, "long-poll"], found


async def test_a_token_of_another_deployment_is_told_apart_from_a_key_that_is_wrong(instance: Instance) -> None:
    foreign = token({"sub": "u1"}, "another-secret-of-at-least-32-bytes-length")
    found = await findings(instance.url, *WHO, token=foreign)
    assert with_verdict(found, "fail") == ["token"]
    assert "its signature does not match" in found["token"].reason
    assert "TIDEWIRE_TOKEN" in found["token"].advice


async def test_with_a_token_alone_all_is_looked_at_that_needs_no_event(instance: Instance) -> None:
    found = await findings(instance.url, key=None, token=user_token("u1"))
    assert with_verdict(found, "fail") == []
    assert {"token", "ticket", "forged-token", "cors-stream", "stream", "heartbeats"} <= set(with_verdict(found, "ok"))
    assert {"publish", "long-poll", "latency", "resume"} <= set(with_verdict(found, "skip"))
    assert "TIDEWIRE_KEY" in found["latency"].advice


async def test_a_token_for_nobody_is_not_used_because_its_events_would_be_everyones(instance: Instance) -> None:
    found = await findings(instance.url, "token", key=None, token=user_token(None))
    assert found["token"].verdict == "skip"
    assert "events for everyone" in found["token"].reason


@pytest.mark.parametrize(("secret", "verdict"), [(SECRET, "ok"), ("x" * 32, "fail")])
async def test_a_secret_signs_a_token_that_holds_only_where_it_is_the_deployments(
    instance: Instance, secret: str, verdict: str
) -> None:
    found = (await findings(instance.url, "token", key=None, environ={"REALTIME_JWT_SECRET": secret}))["token"]
    assert found.verdict == verdict
    assert "signed here with REALTIME_JWT_SECRET" in found.reason
    assert "REALTIME_JWT_SECRET" in found.advice or verdict == "ok"


async def test_a_deployment_without_authentication_works_here_and_is_a_failure_elsewhere(
    open_instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await findings(open_instance.url, key=None)
    assert (with_verdict(found, "fail"), with_verdict(found, "warn")) == ([], ["anonymous-publish"])
    assert with_verdict(found, "skip") == ["wrong-key", "token", "ticket", "forged-token"]
    monkeypatch.setattr(Deployment, "is_local", False)
    elsewhere = await findings(open_instance.url, "health", "anonymous-publish", "metrics", key=None)
    assert elsewhere["anonymous-publish"].verdict == "fail"
    assert "REALTIME_PUBLISH_KEYS" in elsewhere["anonymous-publish"].advice
    assert with_verdict(elsewhere, "warn") == ["health", "metrics"]
    assert "REALTIME_TRANSPORT" in elsewhere["health"].advice


async def test_a_key_that_may_send_no_more_ends_the_samples_and_not_the_check(open_instance: Instance) -> None:
    limits = Limits(answer=LIMITS.answer, heartbeat=HEARTBEAT, samples=100)
    found = await findings(open_instance.url, "anonymous-publish", "stream", "latency", key=None, limits=limits)
    assert found["latency"].verdict == "ok"
    assert 1 <= float(found["latency"].measured["samples"]) < 40
    assert "cut short by the limit of this key: 429" in found["latency"].reason
