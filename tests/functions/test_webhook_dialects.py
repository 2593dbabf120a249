"""Webhooks as providers really send them: their header names, lists of signatures, forms, and texts of users."""

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote, urlencode

import httpx
import pytest
from tidewire.ingest.webhooks.sources import preview

from tests.support.api import Api, problem_of, receipts_of, unique
from tests.support.processes import Instance
from tests.unit.ingest.webhooks.example import PAYLOADS
from tests.unit.ingest.webhooks.signers import SIGNERS, Signer

FORM = "application/x-www-form-urlencoded"
PUSHED = """
when = "header('X-GitHub-Event') == 'push' && repository.full_name == 'Codertocat/Hello-World'"
type = "pushed"
data = "{ref: ref, repository: repository}"
"""
SLACK = """
when = "command == '/weather'"
type = "weather-asked"
data = "{command: command, text: text, by: user_id}"

[[sources.slack.events]]
when = "type == 'block_actions'"
type = "clicked"
data = "actions[0]"

[[sources.slack.events]]
when = "nowhere"
type = "never"
"""
RULES: Mapping[str, str] = {"github": PUSHED, "slack": SLACK}
PAGERDUTY = Signer(
    "hmac", SIGNERS["hmac"].sign, SIGNERS["hmac"].secrets, 'header = "X-PagerDuty-Signature"\nprefix = "v1="'
)


@pytest.fixture(scope="module")
def sources(stack: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> Api:
    """One in memory with a source for each scheme."""
    folder = tmp_path_factory.mktemp("sources")
    settings = {"REALTIME_CONFIG": str(folder / "realtime.toml"), "REALTIME_HEARTBEAT": "200ms"}
    signers = {**SIGNERS, "pagerduty": PAGERDUTY}
    text = ""
    for name, signer in signers.items():
        named = signer._replace(variable=name.replace("-", "_").upper() + "_SECRET")
        text += named.table(name, RULES.get(name, 'type = "delivered"'))
        settings |= named.environ()
    (folder / "realtime.toml").write_text(text)
    instance = Instance(folder, settings).start()
    stack.callback(instance.stop)
    api = Api(instance)
    stack.callback(api.close)
    return api


def signed(source: str, body: bytes, id: str = "", *, secret: int = 0) -> dict[str, str]:
    """The headers with which the provider's own SDK, or its documentation, signs this body."""
    signer = SIGNERS[source]
    return signer.sign(body, signer.secrets[secret], id or unique("d"), int(time.time()))


def send(api: Api, source: str, body: bytes, headers: Mapping[str, str], kind: str = FORM) -> httpx.Response:
    return api.http.post(f"/api/webhooks/{source}", content=body, headers={"content-type": kind, **headers})


def svix(headers: Mapping[str, str]) -> dict[str, str]:
    """The same headers by the names that Svix, Clerk and Resend give them."""
    return {name.replace("webhook-", "svix-"): value for name, value in headers.items()}


def test_svix_names_are_taken_and_a_retry_is_a_duplicate(sources: Api) -> None:
    body, id = b'{"type": "email.sent"}', unique("msg")
    headers = svix(signed("standard-webhooks", body, id))
    first, again = (
        receipts_of(send(sources, "standard-webhooks", body, headers, "application/json")) for _ in range(2)
    )
    assert [(r["id"], r["duplicate"]) for r in (*first, *again)] == [(id, False), (id, True)]


def test_a_mix_of_both_sets_is_refused(sources: Api) -> None:
    body = b"{}"
    standard = signed("standard-webhooks", body, "m-1")
    for name in standard:
        mixed = {**{key: value for key, value in standard.items() if key != name}, **svix({name: standard[name]})}
        problem_of(send(sources, "standard-webhooks", body, mixed, "application/json"), 401)
    forged = {**svix(standard), **standard, "webhook-id": "m-2"}
    problem_of(send(sources, "standard-webhooks", body, forged, "application/json"), 401)


def test_a_replay_gets_no_other_id_by_the_other_name(sources: Api) -> None:
    """The id is of the set that was verified: an unsigned header beside it must not make a second event."""
    body, id = b"{}", unique("msg")
    headers = svix(signed("standard-webhooks", body, id))
    assert receipts_of(send(sources, "standard-webhooks", body, headers, "application/json"))[0]["id"] == id
    replayed = {**headers, "webhook-id": unique("other")}
    [receipt] = receipts_of(send(sources, "standard-webhooks", body, replayed, "application/json"))
    assert (receipt["id"], receipt["duplicate"]) == (id, True)


@pytest.mark.parametrize("order", [1, -1], ids=["old, new", "new, old"])
@pytest.mark.parametrize(
    ("source", "header", "joiner"),
    [
        ("standard-webhooks", "webhook-signature", " "),
        ("stripe", "stripe-signature", ",v1="),
        ("hmac", "x-signature", ","),
        ("hmac", "x-signature", ", "),
        ("hmac", "x-signature", " "),
    ],
)
def test_one_good_signature_of_a_list_is_enough(
    sources: Api, source: str, header: str, joiner: str, order: int
) -> None:
    """While a provider rotates its secret, it sends a signature for each; we have only one of the two here."""
    body, id = b'{"id": "%b"}' % unique("evt").encode(), unique("d")
    good, wrong = signed(source, body, id), signed(source, b"another body", id)
    signatures = [headers[header].partition("v1=")[2] or headers[header] for headers in (wrong, good)][::order]
    start = good[header].partition("v1=")[0] + "v1=" if source == "stripe" else ""
    sent = {**good, header: start + joiner.join(signatures)}
    assert len(receipts_of(send(sources, source, body, sent, "application/json"))) == 1
    neither = {**good, header: start + joiner.join([signatures[::order][0]] * 2)}
    problem_of(send(sources, source, body, neither, "application/json"), 401)


def test_a_list_of_pagerduty_is_taken(sources: Api) -> None:
    body = b'{"event": {"id": "x"}}'
    digests = [hmac.new(key.encode(), body, hashlib.sha256).hexdigest() for key in ("old", PAGERDUTY.secrets[0])]
    sent = {"x-pagerduty-signature": ",".join(f"v1={digest}" for digest in digests)}
    assert send(sources, "pagerduty", body, sent, "application/json").status_code == 202
    upper = {"x-pagerduty-signature": f"v1={digests[1].upper()}"}
    assert send(sources, "pagerduty", body, upper, "application/json").status_code == 202
    problem_of(send(sources, "pagerduty", body, {"x-pagerduty-signature": f"v1={digests[0]}"}, "application/json"), 401)


@pytest.mark.parametrize(
    ("source", "header"),
    [("github", "x-hub-signature-256"), ("slack", "x-slack-signature"), ("stripe", "stripe-signature")],
)
def test_hexadecimal_digits_may_be_of_either_case(sources: Api, source: str, header: str) -> None:
    body = b'{"id": "%b"}' % unique("evt").encode()
    headers = signed(source, body)
    start, equals, digest = headers[header].rpartition("=")
    sent = {**headers, header: start + equals + digest.upper()}
    assert send(sources, source, body, sent, "application/json").status_code == 202


def test_a_form_of_github_becomes_the_event_of_its_json(sources: Api) -> None:
    """The default content type of a webhook at GitHub; `when` and `data` see the JSON that is in `payload`."""
    text = (PAYLOADS / "github" / "push.json").read_bytes()
    body = urlencode({"payload": text}).encode()
    with sources.stream(types="pushed") as stream:
        stream.ready()
        for sent, kind in ((text, "application/json"), (body, FORM), (body, f"{FORM}; charset=UTF-8")):
            response = send(sources, "github", sent, signed("github", sent), kind)
            assert [receipt["duplicate"] for receipt in receipts_of(response)] == [False]
        assert len({stream.next().data for _ in range(3)}) == 1
    problem_of(send(sources, "github", body, signed("github", text)), 401)


def test_a_slash_command_of_slack_is_an_event(sources: Api) -> None:
    """Slack shows the response as a message, and accepts no status but 200."""
    body = (PAYLOADS / "slack" / "slash_command.txt").read_bytes()
    with sources.stream(types="weather-asked") as stream:
        stream.ready()
        response = send(sources, "slack", body, signed("slack", body))
        assert (response.status_code, response.content) == (200, b"")
        assert json.loads(stream.next().data) == {"command": "/weather", "text": "94070 café&co", "by": "U0000000A1"}


def test_a_click_in_slack_is_an_event(sources: Api) -> None:
    payload = (PAYLOADS / "slack" / "block_actions.json").read_text().strip()
    body = b"payload=" + quote(payload, safe="").encode()
    with sources.stream(types="clicked") as stream:
        stream.ready()
        response = send(sources, "slack", body, signed("slack", body))
        assert (response.status_code, response.content) == (200, b"")
        assert json.loads(stream.next().data) == json.loads(payload)["actions"][0]
    other = b"ssl_check=1&token=x"
    assert send(sources, "slack", other, signed("slack", other)).status_code == 200, "no rule counts it"


def test_json_that_is_called_a_form_is_not_read_as_one(sources: Api) -> None:
    """No signature covers the content type: a recorded delivery must not become another payload by it."""
    head = sources.head()
    body = b'{"title": "&payload=%7B%22id%22%3A%22forged%22%7D&"}'
    for kind, content in ((FORM, body), (FORM, b"[1,2]"), ("application/json", b"payload=%7B%7D")):
        problem_of(send(sources, "stripe", content, signed("stripe", content), kind), 400)
    assert sources.head() == head


@pytest.mark.parametrize("body", [b"payload=%7B", b"payload=", b"payload=\xff", b"a b", b"&".join([b"a=1"] * 1_001)])
def test_a_form_that_is_wrong_is_a_400(sources: Api, body: bytes) -> None:
    signer = SIGNERS["github"]
    problem_of(send(sources, "github", body, signer.sign(body, signer.secrets[0], "d", 0)), 400)


def test_a_body_that_is_neither_json_nor_a_form_is_a_415(sources: Api) -> None:
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/json; charset=latin1"):
        response = send(sources, "github", b"{}", signed("github", b"{}"), kind)
        problem_of(response, 415)
        assert response.headers["accept"] == f"application/json, {FORM}"


SURROGATES = [
    (rb'{"id":"x","text":"a \ud83d"}', rb'{"id":"x","text":"a \ufffd"}'),
    (rb'{"id":"x","text":"\uDE00\ud83d\ude00\uD83D\uDE00"}', rb'{"id":"x","text":"\ufffd\ud83d\ude00\uD83D\uDE00"}'),
    (rb'{"id":"x","text":"\ud83d\ud83d\ude00\ud83d\n"}', rb'{"id":"x","text":"\ufffd\ud83d\ude00\ufffd\n"}'),
    (rb'{"id":"x","\udfff":"\\ud83d"}', rb'{"id":"x","\ufffd":"\\ud83d"}'),
]


@pytest.mark.parametrize(("body", "data"), SURROGATES, ids=["at the end", "a low one", "before a pair", "in a key"])
def test_half_a_character_of_a_webhook_is_replaced(sources: Api, body: bytes, data: bytes) -> None:
    """What a user typed was cut in the middle of an emoji: the provider can mend that no more than its retry can."""
    with sources.stream(types="delivered") as stream:
        stream.ready()
        assert len(receipts_of(send(sources, "hmac", body, signed("hmac", body), "application/json"))) == 1
        assert stream.next().data == data.decode()


def test_half_a_character_in_a_publish_is_a_400_with_reason(sources: Api) -> None:
    for text in (rb"\ud83d", rb"\uDE00", rb"\ud83d\ud83d"):
        problem = problem_of(sources.post(b'{"type": "t", "data": "%b"}' % text), 400)
        assert problem["detail"].startswith(f"The body is not valid JSON: the escape {text[:6].decode()} at byte 23 is")
    for good in (rb"\ud83d\ude00", rb"\\ud83d"):
        assert sources.post(b'{"type": "t", "data": "%b"}' % good).status_code == 202


def test_the_rest_of_strict_json_stays(sources: Api) -> None:
    for body in (b'{"a": NaN}', b'{"a": 1, "a": 2}', rb'{"\ud83d": 1, "\ufffd": 2}', b"\xed\xa0\x80"):
        problem_of(send(sources, "hmac", body, signed("hmac", body), "application/json"), 400)


def test_the_trial_reads_a_form(sources: Api, tmp_path: Path) -> None:
    """`tidewire webhook try` decodes as the receiver does."""
    file = tmp_path / "realtime.toml"
    file.write_text(SIGNERS["slack"].table("slack", SLACK))
    body = (PAYLOADS / "slack" / "slash_command.txt").read_bytes()
    [event] = preview(str(file), "slack", body, {"Content-Type": FORM})
    assert event.type == "weather-asked"
