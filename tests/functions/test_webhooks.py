"""POST /api/webhooks/{source}, with the four examples of docs/webhooks.md and payloads as providers send them."""

import asyncio
import base64
import json
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import pytest
from tidewire.delivery.hub import Hub
from tidewire.errors import TransportUnavailable
from tidewire.http import webhooks
from tidewire.http.lambda_entry import HttpFunction
from tidewire.http.local import app
from tidewire.primitives.counters import WEBHOOKS
from tidewire.settings.config import Settings
from tidewire.transports.base import Receipt
from tidewire.transports.memory import MemoryLog

from tests.functions.test_lambda import function_url
from tests.support.api import Api, problem_of, receipts_of, unique
from tests.support.processes import ROOT, MakeInstance, ServerError
from tests.unit.ingest.webhooks.example import CONFIG, PAYLOADS, SECRETS, SETTINGS
from tests.unit.ingest.webhooks.signers import SIGNERS

DOCS = ROOT / "docs" / "webhooks.md"


class Case(NamedTuple):
    """A payload, what its provider calls it, and the event that it becomes."""

    source: str
    file: str
    headers: Mapping[str, str]
    type: str
    data: str
    users: tuple[str, ...] = ()
    id: str | None = None  # None: the delivery's


CASES = [
    Case(
        "github",
        "deployment_status.json",
        {"x-github-event": "deployment_status"},
        "deploy-ready",
        '{"environment":"production","sha":"f95f852bd8fca8fcc58a9a2d6c842781e32a215e","at":"2019-05-15T15:20:55Z"}',
    ),
    Case(
        "github",
        "issues.json",
        {"x-github-event": "issues"},
        "issue-edited",
        '{"number":1,"title":"Spelling error in the README file","by":"Codertocat"}',
        ("Codertocat",),
    ),
    Case(
        "stripe",
        "payment_intent.succeeded.json",
        {},
        "order-paid",
        '{"order":"1047","amount":4999,"currency":"eur"}',
        ("u1",),
        "evt_3TdWreTidewire0001aB9xQ2",
    ),
    Case(
        "slack",
        "app_mention.json",
        {},
        "mentioned",
        '{"type":"app_mention","user":"U0000000A1","ts":"1795645260.001900",'
        '"client_msg_id":"5b0d9b0e-3c0a-4f6a-9d52-2f1f4f5a7c10",'
        r'"text":"<@U0000000B2> caf\u00e9 deploy, please \/ danke","team":"T0TIDEWIRE","channel":"C0TIDEWIRE",'
        '"event_ts":"1795645260.001900"}',
        id="Ev0TIDEWIRE1",
    ),
    Case(
        "netlify",
        "deploy.ready.json",
        {},
        "site-ready",
        '{"url":"https://tidewire.example","branch":"main","commit":"3f0c6b1d2e4a59788796a5b4c3d2e1f00f1e2d3c","seconds":39}',
        id="6925f0c1d3a4b50008e1a001-ready",
    ),
]


def send(api: Api, source: str, body: bytes, id: str = "d", headers: Mapping[str, str] | None = None) -> httpx.Response:
    """Deliver as the provider does, with these headers in addition or instead."""
    signed = SIGNERS[source].sign(body, SIGNERS[source].secrets[0], id, int(time.time()))
    sent = {"content-type": "application/json", **signed, **(headers or {})}
    return api.http.post(f"/api/webhooks/{source}", content=body, headers=sent)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.source}-{case.file}" for case in CASES])
def test_the_example_maps_a_delivery_as_documented(hooked: Api, case: Case) -> None:
    api = hooked
    body = (PAYLOADS / case.source / case.file).read_bytes()
    id = unique("delivery")
    user = {"userId": case.users[0]} if case.users else {}
    with api.stream(**user) as stream, api.stream(userId="somebody-else") as other:
        stream.ready()
        other.ready()
        response = send(api, case.source, body, id, case.headers)
        assert response.status_code == 202, response.text
        [receipt] = receipts_of(response)
        assert (receipt["id"], receipt["duplicate"]) == (case.id or id, False)
        event = stream.next()
        assert (event.type, event.data) == (case.type, case.data)
        head = api.head()
        again = receipts_of(send(api, case.source, body, id, case.headers))
        assert again == [{**receipt, "duplicate": True}], "a retry is a duplicate"
        assert api.head() == head, "nothing was appended"
        api.publish({"type": "sentinel", "data": None})
        assert stream.next().type == "sentinel"
        assert other.next().type == ("sentinel" if case.users else case.type)


def test_the_docs_contain_the_example_and_its_events() -> None:
    text = DOCS.read_text()
    blocks = re.findall(r"^```toml example\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert "\n".join(blocks) == CONFIG.read_text()
    shown = re.findall(r"^```json event\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert [json.loads(block) for block in shown] == [
        {"type": case.type, **({"userIds": list(case.users)} if case.users else {}), "data": json.loads(case.data)}
        for case in CASES
    ]


def test_a_delivery_without_a_matching_rule_appends_nothing(hooked: Api) -> None:
    """The response is still a 202."""
    head = hooked.head()
    response = send(hooked, "github", b'{"zen": "Keep it logically awesome."}', "d", {"x-github-event": "ping"})
    assert (response.status_code, response.json()) == (202, {"events": []})
    assert hooked.head() == head


def test_slacks_url_verification_is_answered_once_it_is_signed(hooked: Api) -> None:
    body = (PAYLOADS / "slack" / "url_verification.json").read_bytes()
    response = send(hooked, "slack", body)
    assert (response.status_code, response.json()) == (200, {"challenge": json.loads(body)["challenge"]})
    assert response.headers["content-type"] == "application/json"
    problem_of(send(hooked, "slack", body, "d", {"x-slack-signature": "v0=" + "0" * 64}), 401)


def test_a_slack_delivery_with_a_challenge_field_is_mapped(hooked: Api) -> None:
    body = json.dumps(
        {"type": "event_callback", "event_id": unique("Ev"), "challenge": "x", "event": {"type": "app_mention"}}
    )
    assert len(receipts_of(send(hooked, "slack", body.encode()))) == 1


def test_concurrent_copies_of_a_delivery_append_one_event(hooked: Api) -> None:
    id = unique("delivery")
    body = (PAYLOADS / "github" / "deployment_status.json").read_bytes()
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(
            lambda _: send(hooked, "github", body, id, {"x-github-event": "deployment_status"}), range(16)
        )
        receipts = [receipt for answer in answers for receipt in receipts_of(answer)]
    assert sorted(receipt["duplicate"] for receipt in receipts) == [False] + [True] * 15
    assert len({receipt["cursor"] for receipt in receipts}) == 1


def test_a_source_that_is_not_configured_is_not_found(hooked: Api, api: Api) -> None:
    for instance, path in ((hooked, "gitlab"), (hooked, "GitHub"), (hooked, ""), (hooked, "a/b"), (api, "github")):
        problem_of(instance.http.post(f"/api/webhooks/{path}", content=b"{}"), 404)
    problem_of(hooked.http.get("/api/webhooks/github"), 405)


def test_a_wrong_signature_appends_nothing(hooked: Api) -> None:
    """Also with a valid publish key."""
    head = hooked.head()
    wrong = {"x-hub-signature-256": "sha256=" + "0" * 64, "authorization": "Bearer anything"}
    response = send(hooked, "github", b"{}", "d", wrong)
    problem = problem_of(response, 401)
    assert problem["detail"] == "The signature does not match"
    assert response.headers["www-authenticate"] == 'Signature realm="tidewire"'
    assert hooked.head() == head


@pytest.mark.parametrize("header", [b"sha256=\xff\xfe", b"\xe2\x82\xac", b"", b"sha256=", b"s" * 30_000])
def test_bytes_of_every_kind_in_a_signature_are_a_401(hooked: Api, header: bytes) -> None:
    headers = {b"x-hub-signature-256": header, b"x-github-delivery": b"d", b"content-type": b"application/json"}
    problem_of(hooked.http.post("/api/webhooks/github", content=b"{}", headers=headers), 401)


def test_a_signature_that_stands_twice_is_refused(hooked: Api) -> None:
    signed = SIGNERS["github"].sign(b"{}", SIGNERS["github"].secrets[0], "d", 0)
    twice = [*signed.items(), ("x-hub-signature-256", signed["x-hub-signature-256"])]
    problem_of(hooked.http.post("/api/webhooks/github", content=b"{}", headers=twice), 401)


def test_another_type_is_refused_and_none_is_taken(hooked: Api) -> None:
    for wrong in ("text/plain", "application/json; charset=latin1"):
        response = send(hooked, "github", b"payload=%7B%7D", "d", {"content-type": wrong})
        problem_of(response, 415)
        assert response.headers["accept"] == "application/json, application/x-www-form-urlencoded"
    body = b"{}"
    headers = SIGNERS["github"].sign(body, SIGNERS["github"].secrets[0], "d", 0)
    assert hooked.http.post("/api/webhooks/github", content=body, headers=headers).status_code == 202
    assert send(hooked, "github", body, "d", {"content-type": "application/vnd.github+json"}).status_code == 202


def test_the_signature_is_checked_before_the_body(hooked: Api) -> None:
    wrong = {"x-hub-signature-256": "sha256=00", "content-type": "text/plain"}
    problem_of(send(hooked, "github", b"{", "d", wrong), 401)
    problem_of(send(hooked, "github", b"{"), 400)


def test_a_body_above_its_limit_is_not_kept(hooked: Api) -> None:
    problem_of(send(hooked, "github", b" " * (1024 * 1024 + 1)), 413)


def test_a_payload_that_does_not_fit_names_the_rule_alone(hooked: Api) -> None:
    head = hooked.head()
    body = b'{"action": "two words", "issue": {"assignees": [{"login": "hunter2"}]}}'
    problem = problem_of(send(hooked, "github", body, "d", {"x-github-event": "issues"}), 422)
    assert problem["detail"] == (
        "The payload does not fit realtime.toml: sources.github.events[1].type:"
        " must be 1 to 128 characters of A-Z a-z 0-9 . _ -"
    )
    assert hooked.head() == head


def test_deliveries_are_counted_by_source_and_verdict(hooked: Api) -> None:
    """An unknown source never becomes a label."""
    id = unique("delivery")
    body = (PAYLOADS / "github" / "deployment_status.json").read_bytes()
    before = counts(hooked)
    for _ in range(2):
        send(hooked, "github", body, id, {"x-github-event": "deployment_status"})
    send(hooked, "github", body, "d", {"x-github-event": "star"})
    send(hooked, "github", b"{}", "d", {"x-hub-signature-256": "sha256="})
    send(hooked, "github", b'{"issue": {"assignees": [1]}}', "d", {"x-github-event": "issues"})
    send(hooked, "github", b"{")
    send(hooked, "slack", (PAYLOADS / "slack" / "url_verification.json").read_bytes())
    hooked.http.post("/api/webhooks/hunter2", content=b"{}")
    after = counts(hooked)
    grown = {labels for labels in after if after[labels] != before.get(labels, 0)}
    github = ("accepted", "duplicate", "ignored", "bad-signature", "does-not-fit", "not-json")
    assert grown == {
        *(("github", verdict) for verdict in github),
        ("slack", "challenge"),
        ("unknown", "unknown-source"),
    }


def counts(api: Api) -> dict[tuple[str, str], float]:
    text = api.http.get("/api/metrics").text
    found = re.findall(r'^realtime_webhooks_total\{source="([^"]*)",verdict="([^"]*)"\} (\S+)$', text, re.MULTILINE)
    return {(source, verdict): float(value) for source, verdict, value in found}


def test_the_log_holds_no_signature_secret_or_payload(make_instance: MakeInstance) -> None:
    instance = make_instance(**SETTINGS)
    api = Api(instance)
    body = b'{"issue": {"assignees": [{"login": "hunter2"}]}, "action": "x y"}'
    send(api, "github", body, "d", {"x-github-event": "issues"})
    send(api, "github", body, "d", {"x-hub-signature-256": "sha256=hunter2"})
    api.close()
    instance.stop()
    log = instance.log_file.read_text()
    assert not [secret for secret in ("hunter2", *SECRETS.values(), "sha256=") if secret in log]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"STRIPE_WEBHOOK_SECRET": ""}, "tidewire: STRIPE_WEBHOOK_SECRET: is not set: realtime.toml names it"),
        ({"REALTIME_CONFIG": "missing.toml"}, "tidewire: REALTIME_CONFIG: names a file that cannot be read"),
    ],
)
def test_a_start_without_the_sources_secrets_is_refused(
    make_instance: MakeInstance, changes: dict[str, str], reason: str
) -> None:
    with pytest.raises(ServerError) as caught:
        make_instance(**{**SETTINGS, **changes})
    assert "ended with 2 at its start" in str(caught.value)
    assert reason in str(caught.value)
    assert "Traceback" not in str(caught.value)


class Unreachable(MemoryLog):
    """A log that cannot be reached."""

    async def publish(self, events: Any) -> list[Receipt]:
        raise TransportUnavailable("The log cannot be reached")


def test_without_the_log_a_delivery_is_a_503() -> None:
    async def deliver() -> httpx.Response:
        async with Hub(Unreachable()) as hub:
            served = app(hub, Settings(config_file=str(CONFIG), variables=SECRETS))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://t") as client:
                body = (PAYLOADS / "stripe" / "payment_intent.succeeded.json").read_bytes()
                headers = SIGNERS["stripe"].sign(body, SECRETS["STRIPE_WEBHOOK_SECRET"], "", int(time.time()))
                return await client.post("/api/webhooks/stripe", content=body, headers=headers)

    before = WEBHOOKS.value("stripe", "unavailable")
    response = asyncio.run(deliver())
    problem_of(response, 503)
    assert response.headers["retry-after"] == "1"
    assert WEBHOOKS.value("stripe", "unavailable") == before + 1


def test_lambda_delivers_the_raw_body_in_base64_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SETTINGS, "REALTIME_TRANSPORT": "memory"}.items():
        monkeypatch.setenv(name, value)
    function = HttpFunction(webhooks.routes)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    body = '{"zen": "Ümlaut"}'.encode()
    try:
        for encoded in (True, False):
            headers = SIGNERS["github"].sign(body, SECRETS["GITHUB_WEBHOOK_SECRET"], "d", 0)
            text = base64.b64encode(body).decode() if encoded else body.decode()
            result = function(function_url("POST", "/api/webhooks/github", text, headers, encoded), None)
            assert (result["statusCode"], result["body"]) == (202, '{"events":[]}')
    finally:
        function.close()
        asyncio.set_event_loop(None)
        loop.close()


def test_equal_ids_of_two_providers_are_two_events(hooked: Api) -> None:
    id = unique("same")
    mention = json.dumps({"event_id": id, "event": {"type": "app_mention"}}).encode()
    status = (PAYLOADS / "github" / "deployment_status.json").read_bytes()
    answers = [
        send(hooked, "slack", mention),
        send(hooked, "github", status, id, {"x-github-event": "deployment_status"}),
    ]
    assert [(r["id"], r["duplicate"]) for answer in answers for r in receipts_of(answer)] == [(id, False)] * 2
