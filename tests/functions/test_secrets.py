"""Secrets stay out of the server's log, also with failing requests."""

import json
import socket
from collections.abc import Iterator

import pytest

from tests.functions.test_openapi import OPERATIONS
from tests.support.api import Api
from tests.support.processes import Instance, MakeInstance
from tests.support.tokens import PUBLISH_KEY, SECRET, Issuer, hs256_by_hand, token, user_token

USER, DATA = "user-7f3a-private", "data-91bc-private"
REDIS_PASSWORD, ISSUER_PASSWORD = "redis-password-c02d", "issuer-password-66e1"
GOOD, EXPIRED, FORGED = user_token(USER), user_token(USER, exp=1), token({"sub": USER}, "forged-secret-" * 4)
KID = "kid-that-names-a-person"
ELSEWHERE = hs256_by_hand({"alg": "RS256", "kid": KID}, {"sub": USER}, b"-")


@pytest.fixture
def instance(make_instance: MakeInstance) -> Iterator[Instance]:
    """An instance whose store and issuer fail."""
    with Issuer() as issuer:
        issuer.status = 500
        yield make_instance(
            # Port 9 is "discard": no store answers there.
            REALTIME_TRANSPORT="redis",
            REDIS_URL=f"redis://tidewire:{REDIS_PASSWORD}@127.0.0.1:9",
            REALTIME_JWKS_URL=f"{issuer.url.replace('//', f'//issuer:{ISSUER_PASSWORD}@')}?key={ISSUER_PASSWORD}",
            REALTIME_PUBLISH_KEYS=PUBLISH_KEY,
            REALTIME_JWT_SECRET=SECRET,
        )


def test_no_secret_token_user_or_data_is_ever_logged(instance: Instance) -> None:
    """Also not after every kind of failure."""
    api = Api(instance)
    event = json.dumps({"type": "t", "data": DATA, "userIds": [USER]}).encode()
    statuses = set()
    for key in (PUBLISH_KEY, PUBLISH_KEY[:-1]):
        publisher = api.acting(key=key)
        for body in (event, event[:-1], event.replace(b"userIds", b"userId"), b"[" * 500 + event):
            statuses.add(publisher.post(body).status_code)
        statuses.add(publisher.post(event, "text/plain").status_code)
        statuses.add(publisher.post(event, headers={"idempotency-key": f"{USER} {DATA}"}).status_code)
    for text in (GOOD, EXPIRED, FORGED, ELSEWHERE, token({"sub": USER}, SECRET, kid=KID), f"{SECRET}.{SECRET}.x"):
        subscriber = api.acting(token=text)
        for params in ({"userId": USER}, {"types": USER + "!"}, {"last_event_id": DATA}, {"token": text}):
            statuses.add(subscriber.get(params=params).status_code)
        statuses.add(api.get({"cookie": f"realtime_token={text}"}).status_code)
    with socket.create_connection(("127.0.0.1", instance.port)) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nAuthorization: Bearer {GOOD}\0\r\n\r\n".encode())
        assert connection.recv(4_096).startswith(b"HTTP/1.1 400")
    statuses.add(api.http.get("/api/health/ready").status_code)
    api.close()
    instance.stop()
    log = instance.log_file.read_text()
    assert statuses == {400, 401, 415, 503}, "every request was meant to fail"
    assert "cannot fetch the key set" in log, "what goes wrong is logged"
    secrets = {PUBLISH_KEY, SECRET, REDIS_PASSWORD, ISSUER_PASSWORD, USER, DATA, KID}
    for text in (GOOD, EXPIRED, FORGED, ELSEWHERE):
        secrets.update(part for part in text.split(".")[1:])
    assert [secret for secret in secrets if secret in log] == []
    assert "Traceback" not in log


SIGNATURE = "5f2b9c-signature-private"
SIGNED = ("webhook-signature", "x-hub-signature-256", "stripe-signature", "x-slack-signature", "upstash-signature")


@pytest.fixture(params=["nothing is wrong", "the log is unavailable"])
def driven(request: pytest.FixtureRequest, make_instance: MakeInstance) -> Instance:
    away = {"REALTIME_TRANSPORT": "redis", "REDIS_URL": "redis://127.0.0.1:9", "REALTIME_PUBLISH_RATE": "100/1s"}
    more = away if request.param == "the log is unavailable" else {}
    return make_instance(REALTIME_PUBLISH_KEYS=PUBLISH_KEY, REALTIME_JWT_SECRET=SECRET, **more)


def test_no_endpoint_leaves_a_credential_or_data_in_the_log(driven: Instance) -> None:
    api = Api(driven)
    ticket = api.http.post("/api/tickets", headers={"authorization": f"Bearer {GOOD}"}).json()["ticket"]
    minted = api.http.post("/api/tokens", json={"userId": USER}, headers={"authorization": f"Bearer {PUBLISH_KEY}"})
    bodies = [
        {"type": "t", "data": DATA, "userIds": [USER]},
        {"userId": USER},
        {"userId": USER, "types": [DATA], "ttl": 60},
        {DATA: USER},
        [DATA],
    ]
    statuses = set()
    for path, method in sorted(OPERATIONS):
        for credential in (PUBLISH_KEY, GOOD, EXPIRED, FORGED, ticket, f"{PUBLISH_KEY}x"):
            headers = {
                "authorization": f"Bearer {credential}",
                "accept": "application/json",
                "idempotency-key": DATA,
                **dict.fromkeys(SIGNED, SIGNATURE),
            }
            for body in bodies if method == "POST" else [None]:
                statuses.add(
                    api.http.request(
                        method,
                        path.replace("{source}", "github"),
                        json=body,
                        headers=headers,
                        params={"ticket": ticket, "last_event_id": DATA},
                    ).status_code
                )
        with api.http.stream(method, path, params={"ticket": ticket, "userId": USER, "token": GOOD}) as response:
            statuses.add(response.status_code)
    api.close()
    driven.stop()
    log = driven.log_file.read_text()
    assert {200, 400, 401} <= statuses, "some of this was meant to go well, and some wrong"
    secrets = {PUBLISH_KEY, SECRET, USER, DATA, SIGNATURE, minted.json()["token"].split(".")[2]}
    for text in (GOOD, EXPIRED, FORGED, ticket):
        secrets.update(text.split(".")[1:])
    assert [secret for secret in secrets if secret in log] == []
    assert "Traceback" not in log
