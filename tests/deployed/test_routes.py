"""The routes of the template and of the site, as seen from the internet."""

import json
import time

import httpx
import jwt
import pytest
from tidewire import __version__

from tests.deployed.conftest import STAGE, Deploy, Deployment, Template
from tests.repository.deploy.conftest import Package
from tests.support.processes import ROOT
from tests.support.tokens import PUBLISH_KEY
from tests.unit.ingest.webhooks.example import SECRETS
from tests.unit.ingest.webhooks.signers import SIGNERS

pytestmark = [pytest.mark.xdist_group("deployed"), pytest.mark.timeout(180)]

JSON = {"content-type": "application/json"}
NETLIFY_SECRET = "netlify-secret-for-tests-of-at-least-32-bytes"
DELIVERY = (ROOT / "tests" / "payloads" / "github" / "issues.json").read_bytes()


@pytest.fixture(scope="module")
def signed(deploy: Deploy, template: Template) -> Deployment:
    """A deployment whose functions take only what comes through the site."""
    return deploy(template, REALTIME_NETLIFY_SECRET=NETLIFY_SECRET)


def deliver(deployment: Deployment, front: str) -> httpx.Response:
    """A delivery of GitHub's."""
    signer = SIGNERS["github"]
    headers = {**signer.sign(DELIVERY, signer.secrets[0], "delivery-1", int(time.time())), "x-github-event": "issues"}
    return deployment.http.post(f"{front}/api/webhooks/github", content=DELIVERY, headers={**headers, **JSON})


def test_a_stream_through_the_site_is_refused_at_once(deployed: Deployment) -> None:
    """It could only be held back for 26 s and then fail: the answer names the stream's address instead."""
    headers = {"authorization": f"Bearer {deployed.token('u1')}", "accept": "text/event-stream"}
    for front in (deployed.site, deployed.stack.api_url):
        answer = deployed.http.get(f"{front}/api/events", headers={**headers, "origin": deployed.site})
        assert answer.status_code == 406, answer.text
        assert f"{deployed.stack.stream_url}api/events" in answer.json()["detail"]
        assert answer.headers["access-control-allow-origin"] == deployed.site


def test_a_path_without_a_route_is_not_found(deployed: Deployment) -> None:
    """An HTTP API knows its routes alone, so /api/metrics is not for the public."""
    for method, path in (("GET", "/api/metrics"), ("GET", "/api/publish"), ("POST", "/api/events"), ("GET", "/api/")):
        answer = deployed.http.request(method, deployed.site + path)
        assert (answer.status_code, answer.json()) == (404, {"message": "Not Found"}), path


OF_ALL = {
    *("REALTIME_TRANSPORT", "REALTIME_PREFIX", "REALTIME_ALLOWED_ORIGINS", "REDIS_URL"),
    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME"),
}
OF_THE_ADAPTER = {
    *("AWS_LAMBDA_EXEC_WRAPPER", "AWS_LWA_INVOKE_MODE", "AWS_LWA_PORT", "AWS_LWA_READINESS_CHECK_PATH", "PORT"),
}
OWN = {
    "publish": {"REALTIME_EVENT_BUS", "REALTIME_PUBLISH_KEYS", "REALTIME_NETLIFY_SECRET"},
    "tokens": {"REALTIME_PUBLISH_KEYS", "REALTIME_JWT_SECRET", "REALTIME_STREAM_URL", "REALTIME_NETLIFY_SECRET"},
    "webhooks": {"REALTIME_EVENT_BUS", "REALTIME_AUTH", "REALTIME_NETLIFY_SECRET", *SECRETS},
    "ops": {"REALTIME_AUTH", "REALTIME_NETLIFY_SECRET"},
    "receive": {"REALTIME_AUTH", "REALTIME_DEAD_LETTER_QUEUE"},
    "stream": {*OF_THE_ADAPTER, "REALTIME_STREAM_SECONDS", "REALTIME_JWT_SECRET"},
    "poll": {*OF_THE_ADAPTER, "REALTIME_STREAM_URL", "REALTIME_JWT_SECRET"},
}


@pytest.mark.parametrize("name", OWN)
def test_a_function_has_its_variables_and_no_others(deployed: Deployment, name: str) -> None:
    """Also those whose default would do, so that removing one fails here; the other tests cover the rest."""
    assert deployed.stack.function(name).variables.keys() == OF_ALL | OWN[name]


def test_health_and_the_description_are_open(deployed: Deployment) -> None:
    for front in (deployed.site, deployed.stack.api_url):
        assert deployed.http.get(f"{front}/api/health/live").json() == {"status": "live", "version": __version__}
        ready = deployed.http.get(f"{front}/api/health/ready").json()
        assert ready == {
            "status": "ready",
            "transport": "redis",
            "version": __version__,
        }
        assert "/api/events" in deployed.http.get(f"{front}/api/openapi.json").json()["paths"]


def test_the_config_names_the_host_of_the_streams(deployed: Deployment) -> None:
    """By CloudFormation's own reference, so that no second deployment with the address is needed."""
    where = f"{deployed.stack.stream_url}api/events"
    config = deployed.http.get(f"{deployed.site}/api/config").json()
    assert config == {"auth": "required", "streamUrl": where}
    bearer = {"authorization": f"Bearer {deployed.token('u1')}"}
    assert deployed.http.post(f"{deployed.site}/api/tickets", headers=bearer).json()["url"] == where


def test_the_site_has_its_files_and_its_headers(deployed: Deployment) -> None:
    """The page may open streams at any https:// host, runs nothing of others, and cannot be framed."""
    page = deployed.http.get(f"{deployed.site}/")
    assert page.status_code == 200
    assert "<title>" in page.text
    policy = page.headers["content-security-policy"]
    assert {part.strip() for part in policy.split(";")} == {
        "default-src 'self'",
        "connect-src 'self' https:",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    }
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "javascript" in deployed.http.get(f"{deployed.site}/realtime.js").headers["content-type"]
    assert deployed.http.get(f"{deployed.site}/_redirects").status_code == 404


def test_a_delivery_through_the_rewrite_is_an_event(deployed: Deployment) -> None:
    """The body arrives byte for byte: its signature holds. GitHub's retry is no second event."""
    first, again = deliver(deployed, deployed.site), deliver(deployed, deployed.stack.api_url)
    assert (first.status_code, again.status_code) == (202, 202), first.text + again.text
    assert again.json()["events"][0]["duplicate"]
    forged = deployed.http.post(
        f"{deployed.site}/api/webhooks/github",
        content=DELIVERY,
        headers={"x-hub-signature-256": f"sha256={'0' * 64}", "x-github-delivery": "1"},
    )
    assert forged.status_code == 401


def test_with_a_secret_only_the_site_gets_in(signed: Deployment) -> None:
    """Rewrites carry Netlify's signature; requests past the site are refused, also with a signature of their own."""
    assert "signed=REALTIME_NETLIFY_SECRET" in signed.cloud.redirects(signed.site)
    event = {"type": "note", "data": 1}
    api, key = signed.stack.api_url, {"authorization": f"Bearer {PUBLISH_KEY}"}
    assert signed.post("/api/publish", event).status_code == 202
    assert deliver(signed, signed.site).status_code == 202
    assert signed.post("/api/tokens", {"userId": "u1"}).status_code == 200
    assert signed.http.get(f"{signed.site}/api/config").status_code == 200
    claims = {"iss": "netlify", "exp": int(time.time()) + 60}
    forged = jwt.encode(claims, "another-secret-of-at-least-32-bytes-length", "HS256")
    for headers in ({}, {"x-nf-sign": forged}):
        answer = signed.http.post(f"{api}/api/publish", json=event, headers={**key, **headers})
        assert answer.status_code == 403, answer.text
        through = signed.http.post(f"{signed.site}/api/publish", json=event, headers={**key, **headers})
        assert through.status_code == 202, "the site puts its own signature in the place of the client's"
    for path in ("/api/tokens", "/api/tickets", "/api/revocations", "/api/webhooks/github"):
        assert signed.http.post(api + path, json={}, headers=key).status_code == 403, path
    assert signed.http.get(f"{api}/api/openapi.json").status_code == 403
    assert signed.http.get(f"{api}/api/health/ready").status_code == 200


def test_streams_and_pages_need_no_signature(signed: Deployment) -> None:
    """Requests go there directly, with a token of their own."""
    bearer = {"authorization": f"Bearer {signed.token('u1')}", "accept": "application/json"}
    for front in (signed.stack.api_url, signed.site, signed.stack.stream_url.rstrip("/")):
        assert signed.http.get(f"{front}/api/events", headers=bearer).status_code == 200, front
        assert signed.http.get(f"{front}/api/events", headers={"accept": "application/json"}).status_code == 401, front


def test_without_a_secret_nothing_is_signed(deployed: Deployment) -> None:
    assert "signed" not in deployed.cloud.redirects(deployed.site)
    event, key = {"type": "note", "data": 1}, {"authorization": f"Bearer {PUBLISH_KEY}"}
    assert deployed.http.post(f"{deployed.stack.api_url}/api/publish", json=event, headers=key).status_code == 202


def test_a_body_larger_than_a_function_takes_is_refused(deployed: Deployment) -> None:
    """API Gateway's and ours: the log gets none of it."""
    for size, status in ((1_200_000, 413), (11_000_000, 413)):
        answer = deployed.post("/api/publish", {"type": "note", "data": "x" * size})
        assert answer.status_code == status


def test_by_the_bus_an_event_reaches_the_log(deploy: Deploy, package: Package) -> None:
    """Publishers reach the bus alone: its rule has `receive` append, and what cannot be appended is kept."""
    template = package("--stage", STAGE, "--param", "publishTo=eventbridge")
    deployed = deploy(template)
    cursor = deployed.http.get(
        f"{deployed.site}/api/events",
        headers={"authorization": f"Bearer {deployed.token('bus')}", "accept": "application/json"},
    ).json()["cursor"]
    assert deployed.post("/api/publish", {"type": "note", "data": 5, "userIds": ["bus"]}).status_code == 202
    page = deployed.http.get(
        f"{deployed.site}/api/events",
        params={"wait": "20", "last_event_id": cursor},
        headers={"authorization": f"Bearer {deployed.token('bus')}", "accept": "application/json"},
    )
    assert [event["data"] for event in page.json()["events"]] == [5]
    bad = {
        "Source": "tidewire",
        "DetailType": "note",
        "Detail": '{"userId": "u1"}',
        "EventBusName": f"tidewire-{STAGE}",
    }
    deployed.cloud.aws("events").put_events(Entries=[bad])
    assert json.loads(deployed.cloud.next_message(f"tidewire-{STAGE}-dead-letters"))["source"] == "tidewire"
