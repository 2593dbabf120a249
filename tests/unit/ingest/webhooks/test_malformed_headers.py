"""Malformed headers are refused: a scheme raises no other error than BadSignature."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tidewire.errors import BadSignature
from tidewire.ingest.webhooks.scheme import Delivery
from tidewire.ingest.webhooks.sources import Receiver

from tests.unit.ingest.webhooks.conftest import make_receiver
from tests.unit.ingest.webhooks.signers import SIGNERS, Signer, body_of, qstash_claims

NOW = int(time.time())  # PyJWT has no other clock than the machine's


BODY = body_of("d-1")

per_scheme = settings(max_examples=35, suppress_health_check=[HealthCheck.function_scoped_fixture])
latin = st.text(st.characters(max_codepoint=0xFF), max_size=60)  # what a server can hand on
nasty = latin | st.sampled_from(
    [
        *("", " ", ",", "=", ".", "..", "v1,", "v1", "v0=", "sha256=", "t=", "t=,v1=", "t=1", "\x00", "é", "١٢٣"),
        *(
            "t=nan,v1=",
            "t=1e9,v1=00",
            "t=-1,v1=",
            "t=9999999999999999999999,v1=0",
            "infinity",
            "0x10",
            "1_000",
            "+1",
            "-0",
        ),
        *("v1,é", "v1,====", "v1,A", "v1, v1,", "v1,\ud800", "sha256=é", "sha256=" + "0" * 64, "v0=" + "g" * 64),
        *("eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJIUzI1NiJ9.W10.AA", "e30.e30.e30", "a.b.c", "." * 9_000, "x" * 60_000),
        *(
            "eyJhbGciOlsxXX0.e30.AA",
            "W10.W10.W10",
            "bnVsbA.bnVsbA.bnVsbA",
            "eyJhbGciOiJIUzI1NiIsImI2NCI6ZmFsc2V9.e30.AA",
        ),
        *(
            jwt.utils.base64url_encode(b"[" * 5_000).decode() + ".e30.AA",
            "v1," * 5_000,
            "t=1," * 5_000,
            "v1=0," * 5_000,
        ),
    ]
)


def refused(receiver: Receiver, headers: dict[str, str]) -> None:
    with pytest.raises(BadSignature):
        receiver.verify(Delivery(headers, BODY, NOW))


@given(data=st.data())
@per_scheme
def test_no_header_is_anything_but_refused(signer: Signer, receiver: Receiver, data: Any) -> None:
    good = signer.sign(BODY, signer.secrets[0], "d-1", NOW)
    refused(receiver, data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(good, nasty))))


@given(data=st.data())
@per_scheme
def test_one_header_that_is_wrong_among_good_ones_is_refused(signer: Signer, receiver: Receiver, data: Any) -> None:
    good = signer.sign(BODY, signer.secrets[0], "d-1", NOW)
    signed = [name for name in good if "signature" in name or "timestamp" in name or name == "webhook-id"]
    name = data.draw(st.sampled_from(signed))
    at = data.draw(st.integers(0, len(good[name])))
    changed = data.draw(
        st.one_of(
            nasty,
            st.just(good[name][:at]),
            nasty.map(lambda text: good[name][:at] + text + good[name][at:]),
            st.just(f"{good[name]}, {good[name]}"),  # the header stood twice
        )
    )
    headers = {**good, name: changed}
    try:
        receiver.verify(Delivery(headers, BODY, NOW))
    except BadSignature:
        return
    # A list may hold things that are passed over; the signature itself must be there whole.
    assert good[name].rpartition("=")[2] in changed
    assert signer.scheme in ("standard-webhooks", "stripe", "hmac") or changed.lower() == good[name].lower()


@given(data=st.data())
@per_scheme
def test_missing_headers_are_refused(signer: Signer, receiver: Receiver, data: Any) -> None:
    good = signer.sign(BODY, signer.secrets[0], "d-1", NOW)
    for name in good:
        if name in ("x-github-event", "upstash-retried", "upstash-message-id"):
            continue
        refused(receiver, {key: value for key, value in good.items() if key != name})


claim: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just([1]) | st.just({"a": []})
)


@pytest.mark.parametrize("name", ["netlify", "qstash"])
@given(
    changes=st.dictionaries(st.sampled_from(["iss", "sub", "nbf", "exp", "iat", "body", "sha256", "jti", "aud"]), claim)
)
@example({"exp": float("inf"), "nbf": float("nan")})
@example({"exp": 10**400})
@example({"body": "\ud800", "sha256": "\ud800"})
@settings(max_examples=35, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_claims_are_accepted_or_refused(name: str, tmp_path: Path, changes: dict[str, Any]) -> None:
    signer = SIGNERS[name]
    receiver = make_receiver(signer, tmp_path)
    token = jwt.api_jws.encode(json.dumps({**qstash_claims(BODY, NOW), **changes}).encode(), signer.secrets[0], "HS256")
    headers = {"x-webhook-signature": token, "upstash-signature": token}
    try:
        receiver.verify(Delivery(headers, BODY, NOW))
    except BadSignature:
        return
    assert name == "qstash"
    assert changes.keys().isdisjoint({"body", "sub", "iss"})
