"""`tidewire doctor` against deployments: a healthy one, and earlier ones from which no browser could stream."""

import copy

import pytest
from tidewire.tools.doctor import CHECKS, Limits

from tests.deployed.conftest import Deploy, Deployment, Template
from tests.integration.doctor.conftest import findings, with_verdict

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("deployed"),
    pytest.mark.timeout(180),
]

LIMITS = Limits(answer=10.0, heartbeat=15.0, samples=2)
QUICK = [name for name in CHECKS if name not in ("heartbeats", "buffering", "latency", "resume")]


def enter(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shell needs to reach this cloud."""
    monkeypatch.setenv("HTTPS_PROXY", deployment.cloud.proxy)
    monkeypatch.setenv("SSL_CERT_FILE", str(deployment.cloud.certificate))
    for name in ("NO_PROXY", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.full  # test_guide.py runs it as well, as a command
async def test_a_complete_deployment_passes_every_check(deployed: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(deployed, monkeypatch)
    found = await findings(deployed.site, origin=deployed.site, limits=LIMITS)
    assert with_verdict(found, "fail") == [], found
    assert "page" in with_verdict(found, "ok")
    assert found["page"].measured["url"] == f"{deployed.stack.stream_url}api/events"


async def test_a_page_that_cannot_find_its_stream_is_found(
    deploy: Deploy, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The routes of the first template, deployed twice as its document said: tickets led to the stream, and all
    checks were well, while each page asked its own site and got a 404.
    """
    before = copy.deepcopy(template)
    for name in [name for name in before["Resources"] if name.endswith(("ApiConfig", "ApiEvents"))]:
        del before["Resources"][name]
    deployed = deploy(before)
    enter(deployed, monkeypatch)
    found = await findings(deployed.site, *QUICK, origin=deployed.site, limits=LIMITS)
    assert {"page", "long-poll"} <= {*with_verdict(found, "fail")}
    assert "404" in found["page"].reason
    assert "/api/config" in found["page"].advice
    assert {"ticket", "stream", "cors-stream"} <= {*with_verdict(found, "ok")}


@pytest.mark.parametrize(
    ("policy", "verdict"),
    [("connect-src 'self'", "fail"), ("connect-src 'self' https://*.lambda-url.eu-central-1.on.aws", "ok")],
)
async def test_a_policy_that_keeps_pages_from_the_stream_is_found(
    deployed: Deployment, monkeypatch: pytest.MonkeyPatch, policy: str, verdict: str
) -> None:
    enter(deployed, monkeypatch)
    with deployed.cloud.page_headers(deployed.site, {"content-security-policy": f"default-src 'self'; {policy}"}):
        found = await findings(deployed.site, "publish", "token", "ticket", "page", origin=deployed.site, limits=LIMITS)
    assert found["page"].verdict == verdict, found["page"]
    assert "netlify.toml" in found["page"].advice or verdict == "ok"
