"""Publish keys: permissions, and refusals that reveal nothing."""

import hmac
import json

import pytest
from tidewire.errors import Unauthorized
from tidewire.model.permissions import PublishKey
from tidewire.security.publish_keys import PublishKeys

from tests.support.api import Api, problem_of, unique
from tests.support.tokens import PUBLISH_KEY, user_token

EVENT = json.dumps({"type": "key-test", "data": 1}).encode()
BARE = 'Bearer realm="tidewire"'
INVALID = 'Bearer realm="tidewire", error="invalid_token"'

WRONG_KEYS = {
    "another": "not-a-key",
    "prefix": PUBLISH_KEY[:-1],
    "longer": PUBLISH_KEY + "x",
    "other-case": PUBLISH_KEY.upper(),
    "both-keys": f"another-key-of-ours,{PUBLISH_KEY}",
    "latin-1": "schl\xfcssel",
    "huge": "k" * 20_000,
    "a-subscriber-token": user_token("u1"),
}


@pytest.mark.parametrize("key", [PUBLISH_KEY, "another-key-of-ours"])
def test_each_of_several_keys_publishes(guarded: Api, key: str) -> None:
    """So that keys can be rotated."""
    guarded.acting(key=key).publish({"type": unique(), "data": 1})


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
def test_the_scheme_is_not_case_sensitive(guarded: Api, scheme: str) -> None:
    assert guarded.post(EVENT, headers={"authorization": f"{scheme} {PUBLISH_KEY}"}).status_code == 202


def test_no_wrong_key_publishes_and_all_refusals_are_the_same(guarded: Api) -> None:
    refusals = set()
    for key in WRONG_KEYS.values():
        response = guarded.post(EVENT, headers={"authorization": f"Bearer {key}"})
        problem_of(response, 401)
        assert key[:8] not in response.text
        refusals.add((response.headers["www-authenticate"], response.text))
    assert len(refusals) == 1, "a difference would show how close the key was"
    assert refusals.pop()[0] == INVALID


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Basic dTpw", PUBLISH_KEY, f"Basic {PUBLISH_KEY}"])
def test_without_a_credential_the_challenge_has_no_error(guarded: Api, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    response = guarded.post(EVENT, headers=headers)
    problem_of(response, 401)
    assert response.headers["www-authenticate"] == BARE


def test_a_key_in_the_query_or_a_cookie_is_not_looked_at(guarded: Api) -> None:
    query = guarded.http.post(f"/api/publish?access_token={PUBLISH_KEY}", content=EVENT)
    problem_of(query, 401)
    problem_of(guarded.post(EVENT, headers={"cookie": f"realtime_token={PUBLISH_KEY}"}), 401)


def test_the_body_is_not_looked_at_before_the_key(guarded: Api) -> None:
    problem_of(guarded.post(b"[" * 1_000), 401)
    problem_of(guarded.post(b"<xml/>", "text/xml"), 401)


def test_every_key_is_compared_whole_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def count(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", count)
    keys = PublishKeys(tuple(map(PublishKey, ("first", "second", "a-much-longer-third-key"))))
    keys.check("first")
    assert compared == [(32, 32)] * 3
    with pytest.raises(Unauthorized):
        keys.check("f")
    assert compared == [(32, 32)] * 6
