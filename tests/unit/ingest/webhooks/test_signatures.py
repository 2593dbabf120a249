"""Only a provider's signature is accepted: not late, not with another secret, not for another body."""

import base64
import hmac
import json
import time
from pathlib import Path

import jwt
import pytest
import qstash
import standardwebhooks
import stripe
from slack_sdk.signature import SignatureVerifier
from tidewire.errors import BadSignature, SettingsError
from tidewire.ingest.mapping.payload import Payload
from tidewire.ingest.webhooks.scheme import MAX_SIGNATURES, Delivery
from tidewire.ingest.webhooks.sources import Receiver

from tests.unit.ingest.webhooks.conftest import make_receiver
from tests.unit.ingest.webhooks.signers import SIGNERS, URL, Signer, body_of, qstash_claims

NOW = int(time.time())  # PyJWT has no other clock than the machine's


def test_the_published_vector_of_standard_webhooks(tmp_path: Path) -> None:
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    receiver = make_receiver(SIGNERS["standard-webhooks"], tmp_path)
    receiver.verify(Delivery(headers, b'{"test": 2432232314}', 1614265330.0))


def test_the_published_vector_of_github(tmp_path: Path) -> None:
    digest = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    headers = {"x-hub-signature-256": f"sha256={digest}", "x-github-delivery": "1"}
    make_receiver(SIGNERS["github"], tmp_path).verify(Delivery(headers, b"Hello, World!", 0.0))


def test_the_vector_of_slacks_own_tests(tmp_path: Path) -> None:
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
        b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
        b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    signature = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
    headers = {"x-slack-request-timestamp": "1531420618", "x-slack-signature": signature}
    make_receiver(SIGNERS["slack"], tmp_path).verify(Delivery(headers, body, 1531420618.0))


@pytest.mark.parametrize("secret", [0, 1], ids=["current", "next"])
def test_accepts_signatures_of_the_providers_sdk(signer: Signer, receiver: Receiver, secret: int) -> None:
    """The provider's own SDK signs, with the current and with the next secret."""
    body = body_of("d-1")
    headers = signer.sign(body, signer.secrets[secret], "d-1", NOW)
    receiver.verify(Delivery(headers, body, NOW))


def test_the_providers_sdk_accepts_the_same_signatures() -> None:
    body = body_of("d-1")
    signed = {name: signer.sign(body, signer.secrets[0], "d-1", NOW) for name, signer in SIGNERS.items()}
    secrets = {name: signer.secrets for name, signer in SIGNERS.items()}
    standardwebhooks.Webhook(secrets["standard-webhooks"][0]).verify(body, signed["standard-webhooks"])
    event = stripe.Webhook.construct_event(body, signed["stripe"]["stripe-signature"], secrets["stripe"][0])
    assert event.id == "d-1"
    assert SignatureVerifier(secrets["slack"][0]).is_valid_request(body, signed["slack"])
    receiver = qstash.Receiver(*secrets["qstash"])
    receiver.verify(signature=signed["qstash"]["upstash-signature"], body=body.decode(), url=URL)


def test_finds_the_providers_delivery_id(signer: Signer, receiver: Receiver) -> None:
    body = body_of("d-1")
    headers = signer.sign(body, signer.secrets[0], "d-1", NOW)
    id = receiver.source.delivery_id(Payload(body, headers))
    if signer.scheme == "netlify":
        assert id.startswith("sha256-")
        assert id == receiver.source.delivery_id(Payload(body, signer.sign(body, signer.secrets[1], "d-2", NOW)))
        assert id != receiver.source.delivery_id(Payload(body_of("d-2"), headers))
    else:
        assert id == "d-1"


@pytest.mark.parametrize("body", [b'{"id": 1, "event_id": null}', b"[]", b'"x"', b'{"id": "a b", "event_id": ""}'])
@pytest.mark.parametrize("name", ["stripe", "slack"])
def test_a_body_without_a_usable_id_is_known_by_its_hash(name: str, body: bytes, tmp_path: Path) -> None:
    source = make_receiver(SIGNERS[name], tmp_path).source
    assert source.delivery_id(Payload(body)).startswith("sha256-")


def test_a_secret_that_is_not_the_sources_signs_nothing(signer: Signer, receiver: Receiver) -> None:
    body = body_of("d-1")
    other = "whsec_" + "B" * 32 if signer.scheme == "standard-webhooks" else "x" * 32
    with pytest.raises(BadSignature):
        receiver.verify(Delivery(signer.sign(body, other, "d-1", NOW), body, NOW))


@pytest.mark.parametrize("changed", [b" ", b"", b"\x00"], ids=["longer", "shorter", "other"])
def test_another_body_is_refused(signer: Signer, receiver: Receiver, changed: bytes) -> None:
    body = body_of("d-1")
    headers = signer.sign(body, signer.secrets[0], "d-1", NOW)
    with pytest.raises(BadSignature):
        receiver.verify(Delivery(headers, body[:-1] + changed, NOW))


def test_a_header_that_the_signature_covers_cannot_be_changed(signer: Signer, receiver: Receiver) -> None:
    covered = {"webhook-id", "webhook-timestamp", "x-slack-request-timestamp"}
    body = body_of("d-1")
    headers = signer.sign(body, signer.secrets[0], "d-1", NOW)
    for name in covered & headers.keys():
        changed = {**headers, name: "msg_other" if name == "webhook-id" else str(NOW + 1)}
        with pytest.raises(BadSignature, match="does not match"):
            receiver.verify(Delivery(changed, body, NOW))


@pytest.mark.parametrize("away", [-299, 299])
def test_a_clock_that_is_a_little_off_is_no_reason_to_refuse(away: int, tmp_path: Path) -> None:
    for name in ("standard-webhooks", "stripe", "slack"):
        body, signer = body_of("d-1"), SIGNERS[name]
        headers = signer.sign(body, signer.secrets[0], "d-1", NOW)
        make_receiver(signer, tmp_path).verify(Delivery(headers, body, NOW + away))


@pytest.mark.parametrize("away", [-301, 301])
def test_old_and_future_signatures_are_refused(away: int, tmp_path: Path) -> None:
    for name in ("standard-webhooks", "stripe", "slack"):
        body, signer = body_of("d-1"), SIGNERS[name]
        headers = signer.sign(body, signer.secrets[0], "d-1", NOW)
        with pytest.raises(BadSignature, match="by more than 300 s"):
            make_receiver(signer, tmp_path).verify(Delivery(headers, body, NOW + away))


@pytest.mark.parametrize("issued", [-400, 400], ids=["expired", "not yet valid"])
def test_a_token_of_qstash_ends(issued: int, tmp_path: Path) -> None:
    body, signer = body_of("d-1"), SIGNERS["qstash"]
    headers = signer.sign(body, signer.secrets[0], "d-1", NOW + issued)
    with pytest.raises(BadSignature, match="malformed, expired"):
        make_receiver(signer, tmp_path).verify(Delivery(headers, body, NOW))


def test_a_qstash_token_for_another_url_is_refused(tmp_path: Path) -> None:
    """Base64 padding makes no difference."""
    body, signer = body_of("d-1"), SIGNERS["qstash"]
    receiver = make_receiver(signer, tmp_path)
    claims = qstash_claims(body, NOW)
    padded = {**claims, "body": claims["body"] + "="}
    receiver.verify(Delivery({"upstash-signature": jwt.encode(padded, signer.secrets[1])}, body, NOW))
    other = jwt.encode({**claims, "sub": URL + "/"}, signer.secrets[0])
    with pytest.raises(BadSignature, match="another URL"):
        receiver.verify(Delivery({"upstash-signature": other}, body, NOW))


@pytest.mark.parametrize("name", ["netlify", "qstash"])
def test_a_token_of_another_issuer_or_algorithm_is_refused(name: str, tmp_path: Path) -> None:
    body, signer = body_of("d-1"), SIGNERS[name]
    receiver = make_receiver(signer, tmp_path)
    [(header, token), *_] = signer.sign(body, signer.secrets[0], "d-1", NOW).items()
    claims = jwt.decode(token, options={"verify_signature": False})
    forged = [
        jwt.encode({**claims, "iss": "someone"}, signer.secrets[0], "HS256"),
        jwt.encode({key: value for key, value in claims.items() if key != "iss"}, signer.secrets[0], "HS256"),
        jwt.encode(claims, "", "none"),
        jwt.encode(claims, signer.secrets[0].ljust(64), "HS512"),
        token.rpartition(".")[0] + ".",
    ]
    for made in forged:
        with pytest.raises(BadSignature):
            receiver.verify(Delivery({header: made}, body, NOW))


def test_a_header_may_hold_signatures_of_both_secrets(tmp_path: Path) -> None:
    body = body_of("d-1")
    unknown = "whsec_" + "B" * 32
    for name, header in (("standard-webhooks", "webhook-signature"), ("stripe", "stripe-signature")):
        signer = SIGNERS[name]
        receiver = make_receiver(signer, tmp_path)
        ours, other = (signer.sign(body, secret, "d-1", NOW)[header] for secret in (signer.secrets[0], unknown))
        headers = signer.sign(body, unknown, "d-1", NOW)
        both = f"{other} {ours} v1a,AAAA" if name == "standard-webhooks" else f"{other},{ours.split(',')[1]},v0=00"
        receiver.verify(Delivery({**headers, header: both}, body, NOW))
        joiner = " " if name == "standard-webhooks" else ","
        signature = ours if name == "standard-webhooks" else ours.split(",")[1]
        many = joiner.join([ours, *[signature] * MAX_SIGNATURES])
        with pytest.raises(BadSignature, match="more than 32 signatures"):
            receiver.verify(Delivery({**headers, header: many}, body, NOW))


def test_a_standard_webhooks_signature_needs_its_version(tmp_path: Path) -> None:
    body, signer = body_of("d-1"), SIGNERS["standard-webhooks"]
    headers = signer.sign(body, signer.secrets[0], "d-1", NOW)
    headers["webhook-signature"] = headers["webhook-signature"].removeprefix("v1,")
    with pytest.raises(BadSignature):
        make_receiver(signer, tmp_path).verify(Delivery(headers, body, NOW))


def test_a_second_time_in_stripes_header_is_refused(tmp_path: Path) -> None:
    """Only one of the times can be the signed one."""
    body, signer = body_of("d-1"), SIGNERS["stripe"]
    header = signer.sign(body, signer.secrets[0], "d-1", NOW)["stripe-signature"]
    with pytest.raises(BadSignature, match="exactly one t="):
        make_receiver(signer, tmp_path).verify(Delivery({"stripe-signature": f"{header},t={NOW + 1}"}, body, NOW))


def test_the_test_signature_v0_of_stripe_proves_nothing(tmp_path: Path) -> None:
    body, signer = body_of("d-1"), SIGNERS["stripe"]
    header = signer.sign(body, signer.secrets[0], "", NOW)["stripe-signature"].replace("v1=", "v0=")
    with pytest.raises(BadSignature):
        make_receiver(signer, tmp_path).verify(Delivery({"stripe-signature": header}, body, NOW))


@pytest.mark.parametrize("encoding", ["hex", "base64"])
@pytest.mark.parametrize("hash", ["sha1", "sha256", "sha384", "sha512"])
def test_the_generic_scheme_signs_as_it_is_configured(encoding: str, hash: str, tmp_path: Path) -> None:
    settings = f'header = "X-Any"\nhash = "{hash}"\nencoding = "{encoding}"'
    signer = SIGNERS["hmac"]._replace(settings=settings)
    receiver, body = make_receiver(signer, tmp_path), body_of("d-1")
    digest = hmac.digest(b"second", body, hash)
    text = digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()
    receiver.verify(Delivery({"x-any": text}, body, 0.0))
    if encoding == "hex":
        receiver.verify(Delivery({"x-any": text.upper()}, body, 0.0))
    for wrong in (text[:-1], text + "=", "sha256=" + text, ""):
        with pytest.raises(BadSignature):
            receiver.verify(Delivery({"x-any": wrong}, body, 0.0))
    assert receiver.source.delivery_id(Payload(body)).startswith("sha256-")


@pytest.mark.parametrize("secret", ["whsec_", "whsec_not base64", "whsec_A", "ümlaut"])
def test_a_malformed_secret_stops_the_start(secret: str, tmp_path: Path) -> None:
    """The error names the variable, and never the secret."""
    signer = SIGNERS["standard-webhooks"]
    source = make_receiver(signer, tmp_path).source
    with pytest.raises(SettingsError) as caught:
        source.keys({**signer.environ(), "WEBHOOK_SECRET_NEXT": secret})
    assert str(caught.value).startswith("WEBHOOK_SECRET_NEXT: must be base64, after whsec_ (realtime.toml: ")
    assert "not base64" not in str(caught.value)
    assert "mlaut" not in str(caught.value)


def test_a_missing_secret_stops_the_start(signer: Signer, tmp_path: Path) -> None:
    """The error names the variable, and the key of realtime.toml that requires it."""
    source = make_receiver(signer, tmp_path).source
    for value in ({}, {"WEBHOOK_SECRET_NEXT": " "}):
        environ = {"WEBHOOK_SECRET": signer.secrets[0], **value}
        with pytest.raises(SettingsError) as caught:
            source.keys(environ)
        assert str(caught.value) == (
            "WEBHOOK_SECRET_NEXT: is not set: realtime.toml names it in sources.provider.secrets"
        )


def test_no_error_holds_a_part_of_a_signature_or_of_the_body(signer: Signer, receiver: Receiver) -> None:
    body = json.dumps({"id": "hunter2"}).encode()
    headers = {
        name: value.replace("=", "=hunter2") for name, value in signer.sign(body, "x" * 32, "hunter2", NOW).items()
    }
    with pytest.raises(BadSignature) as caught:
        receiver.verify(Delivery(headers, body, NOW))
    assert "hunter2" not in str(caught.value)
