"""What must stay secret stays out of the server's log, whatever goes wrong."""

import json
import socket
from collections.abc import Iterator

import pytest

from tests.functions.api import Api
from tests.functions.tokens import PUBLISH_KEY, SECRET, Issuer, hs256_by_hand, token, user_token
from tests.processes import Instance

USER, DATA = "user-7f3a-private", "data-91bc-private"
REDIS_PASSWORD, ISSUER_PASSWORD = "redis-password-c02d", "issuer-password-66e1"
GOOD, EXPIRED, FORGED = user_token(USER), user_token(USER, exp=1), token({"sub": USER}, "forged-secret-" * 4)
KID = "kid-that-names-a-person"
ELSEWHERE = hs256_by_hand({"alg": "RS256", "kid": KID}, {"sub": USER}, b"-")


@pytest.fixture
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with Issuer() as issuer:
        issuer.status = 500
        yield from started(tmp_path_factory, issuer.url)


def started(tmp_path_factory: pytest.TempPathFactory, key_set: str) -> Iterator[Instance]:
    # Port 9 is "discard": no store answers there.
    settings = {
        "REALTIME_TRANSPORT": "redis",
        "REDIS_URL": f"redis://tidemark:{REDIS_PASSWORD}@127.0.0.1:9",
        "REALTIME_JWKS_URL": f"{key_set.replace('//', f'//issuer:{ISSUER_PASSWORD}@')}?key={ISSUER_PASSWORD}",
        "REALTIME_PUBLISH_KEYS": PUBLISH_KEY,
        "REALTIME_JWT_SECRET": SECRET,
    }
    instance = Instance(tmp_path_factory.mktemp("secrets"), settings).start()
    yield instance
    instance.stop()


def test_no_secret_token_user_or_data_is_in_the_log_after_everything_has_gone_wrong(instance: Instance) -> None:
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
    assert statuses == {400, 401, 415, 503}, "all of this was meant to go wrong, and to be told"
    assert "cannot fetch the key set" in log, "what goes wrong is logged"
    secrets = {PUBLISH_KEY, SECRET, REDIS_PASSWORD, ISSUER_PASSWORD, USER, DATA, KID}
    for text in (GOOD, EXPIRED, FORGED, ELSEWHERE):
        secrets.update(part for part in text.split(".")[1:])
    assert [secret for secret in secrets if secret in log] == []
    assert "Traceback" not in log
