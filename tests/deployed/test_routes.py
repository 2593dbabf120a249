"""The routes of the template and of the site, as whoever is on the internet meets them."""

import json
import time
from typing import Any

import httpx
import jwt
import pytest

from scripts.netlify_build import BuildError
from tests.deploy.conftest import Package
from tests.deployed.conftest import STAGE, Deploy, Deployment, Template, with_webhooks
from tests.functions.tokens import PUBLISH_KEY
from tests.processes import ROOT
from tests.webhooks.signers import SIGNERS

pytestmark = [pytest.mark.xdist_group("deployed"), pytest.mark.timeout(180)]

NETLIFY_SECRET = "netlify-secret-for-tests-of-at-least-32-bytes"
DELIVERY = (ROOT / "tests" / "payloads" / "github" / "issues.json").read_bytes()


@pytest.fixture(scope="module")
def signed(deploy: Deploy, template: Template) -> Deployment:
    """A deployment whose functions take only what comes through the site."""
    return deploy(template, REALTIME_NETLIFY_SECRET=NETLIFY_SECRET)


def deliver(deployment: Deployment, front: str) -> httpx.Response:
    """A delivery of GitHub's."""
    signer = SIGNERS["github"]
    headers = {**signer.headers(DELIVERY), "content-type": "application/json", "x-github-event": "issues"}
    return deployment.http.post(f"{front}/api/webhooks/github", content=DELIVERY, headers=headers)


def test_a_stream_asked_for_at_the_site_is_refused_at_once(deployed: Deployment) -> None:
    """It could only be held back for 26 s and then fail: the answer names the stream's address instead."""
    headers = {"authorization": f"Bearer {deployed.token('u1')}", "accept": "text/event-stream"}
    for front in (deployed.site, deployed.stack.api_url):
        answer = deployed.http.get(f"{front}/api/events", headers={**headers, "origin": deployed.site})
        assert answer.status_code == 406, answer.text
        assert f"{deployed.stack.stream_url}api/events" in answer.json()["detail"]
        assert answer.headers["access-control-allow-origin"] == deployed.site
