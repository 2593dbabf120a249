"""Subscriber tokens signed by an issuer whose public keys are fetched (JWKS)."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tidewire.errors import Unauthorized, Unavailable
from tidewire.security.jwks import FRESH, REFETCH, STALE, TIMEOUT, KeySet
from tidewire.security.tokens import Verifier

from tests.support.api import Api, problem_of
from tests.support.clocks import Clock
from tests.support.processes import MakeInstance
from tests.support.tokens import (
    AUDIENCE,
    ISSUER,
    PUBLISH_KEY,
    SECRET,
    Issuer,
    hs256_by_hand,
    jwk,
    public_pem,
    token,
)

INVALID = 'Bearer realm="tidewire", error="invalid_token"'


def claims(**others: Any) -> dict[str, Any]:
    """Claims that hold, with these changed or added."""
    now = int(time.time())
    return {"sub": "u1", "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 3_600, **others}


def without(name: str) -> dict[str, Any]:
    return {claim: value for claim, value in claims().items() if claim != name}


def is_taken(api: Api, text: str) -> bool:
    response = api.acting(token=text).get()
    if response.status_code == 200:
        return True
    problem_of(response, 401)
    assert response.headers["www-authenticate"] == INVALID
    return False


def is_known(api: Api, text: str) -> bool:
    """As `is_taken`, for a token whose key set may be fetched again only later."""
    response = api.acting(token=text).get()
    if response.status_code != 503:
        return is_taken(api, text)
    problem_of(response, 503)
    assert 0 < int(response.headers["retry-after"]) <= REFETCH
    return False


def test_each_algorithm_is_verified_with_its_key_of_the_set(federated: Api, issuer: Issuer) -> None:
    assert is_taken(federated, token(claims(), issuer.rsa, "RS256", kid="rsa-1"))
    assert is_taken(federated, token(claims(), issuer.ec, "ES256", kid="ec-1"))
    assert is_taken(federated, token(claims(), issuer.ed, "EdDSA", kid="ed-1"))
    assert is_taken(federated, token(claims(), SECRET, "HS256"))


def test_a_token_without_a_kid_uses_the_only_matching_key(federated: Api, issuer: Issuer) -> None:
    assert is_taken(federated, token(claims(), issuer.rsa, "RS256"))


def test_the_kid_must_name_the_key_that_signed(federated: Api, issuer: Issuer) -> None:
    assert is_taken(federated, token(claims(), issuer.rsa, "RS256", kid="rsa-1"))
    assert not is_taken(federated, token(claims(), issuer.rsa, "RS256", kid="ec-1"))
    for kid in ("unknown", "", "rsa-1 "):
        assert not is_known(federated, token(claims(), issuer.rsa, "RS256", kid=kid))


def test_another_key_with_the_same_kid_is_refused(federated: Api) -> None:
    forger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert not is_taken(federated, token(claims(), forger, "RS256", kid="rsa-1"))
    assert not is_taken(federated, token(claims(), forger, "RS256", kid="rsa-1", jwk=jwk(forger, "rsa-1")))
    assert not is_taken(federated, token(claims(), ec.generate_private_key(ec.SECP256R1()), "ES256", kid="ec-1"))


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
def test_a_key_verifies_one_algorithm_only(federated: Api, issuer: Issuer, algorithm: str) -> None:
    assert not is_taken(federated, token(claims(), issuer.rsa, algorithm, kid="rsa-1"))


def test_a_public_key_is_not_taken_for_an_hmac_secret(federated: Api, issuer: Issuer) -> None:
    secrets = [public_pem(issuer.rsa), public_pem(issuer.rsa).strip(), json.dumps(issuer.keys[0]).encode(), b""]
    for secret in secrets:
        for header in ({"alg": "HS256"}, {"alg": "HS256", "kid": "rsa-1"}):
            assert not is_taken(federated, hs256_by_hand(header, claims(), secret))


BAD_CLAIMS = {
    "another issuer": claims(iss="https://evil.example"),
    "no issuer": without("iss"),
    "an issuer that is a list": claims(iss=[ISSUER]),
    "the issuer with a slash": claims(iss=f"{ISSUER}/"),
    "another audience": claims(aud="another-service"),
    "no audience": without("aud"),
    "an empty audience": claims(aud=[]),
    "expired before the leeway": claims(exp=int(time.time()) - 60),
    "not valid until after the leeway": claims(nbf=int(time.time()) + 86_400),  # a test may run long after this line
}


@pytest.mark.parametrize("wrong", BAD_CLAIMS.values(), ids=BAD_CLAIMS.keys())
def test_a_token_of_the_issuer_for_something_else_is_refused(
    federated: Api, issuer: Issuer, wrong: dict[str, Any]
) -> None:
    assert not is_taken(federated, token(wrong, issuer.rsa, "RS256", kid="rsa-1"))


def test_the_leeway_bridges_clocks_that_differ(federated: Api, issuer: Issuer) -> None:
    now = int(time.time())
    for good in (claims(exp=now - 10), claims(nbf=now + 10), claims(iat=now + 10), claims(aud=["x", AUDIENCE])):
        assert is_taken(federated, token(good, issuer.rsa, "RS256", kid="rsa-1"))
    late = token(claims(exp=now - 10), issuer.rsa, "RS256", kid="rsa-1")
    with federated.acting(token=late).stream() as stream:
        stream.ready()
        warned = stream.until("realtime.expiring")
        federated.acting(key=PUBLISH_KEY).publish({"type": "leeway", "data": 1})
        followed = stream.until("leeway")  # fails if the stream is ended at once
    assert [event.type for event in [*warned, *followed]] == ["realtime.expiring", "leeway"]


def test_made_up_key_ids_do_not_make_us_hammer_the_issuer(federated: Api, issuer: Issuer) -> None:
    assert is_taken(federated, token(claims(), issuer.rsa, "RS256", kid="rsa-1"))
    before = issuer.requests
    for n in range(50):
        assert not is_known(federated, token(claims(), issuer.rsa, "RS256", kid=f"made-up-{n}"))
    assert issuer.requests - before <= 1 + 30 / REFETCH


def test_without_a_key_set_a_token_is_a_503(make_instance: MakeInstance) -> None:
    """Neither valid nor invalid: a 401 would log the user out."""
    # Port 9 is "discard": nothing answers there.
    api = Api(make_instance(REALTIME_JWKS_URL="http://127.0.0.1:9/jwks.json", REALTIME_JWT_SECRET=SECRET))
    key = ec.generate_private_key(ec.SECP256R1())
    response = api.acting(token=token(claims(), key, "ES256", kid="ec-1")).get()
    problem_of(response, 503)
    assert int(response.headers["retry-after"]) > 0
    assert is_taken(api, token(claims(), SECRET)), "tokens that need no key set are verified all the same"
    api.close()


@pytest.fixture
def own_issuer() -> Iterator[Issuer]:
    with Issuer() as issuer:
        yield issuer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verifier(own_issuer: Issuer, clock: Clock) -> Verifier:
    return Verifier(None, KeySet(own_issuer.url, clock))


async def test_a_rotated_key_is_fetched_for_its_first_token(
    verifier: Verifier, own_issuer: Issuer, clock: Clock
) -> None:
    """While no fetch is due, its key is neither good nor bad: 503, as it may have been rotated in."""
    old = token(claims(), own_issuer.rsa, "RS256", kid="rsa-1")
    await verifier.verify(old)
    rotated = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    own_issuer.keys = [jwk(rotated, "rsa-2")]
    new = token(claims(), rotated, "RS256", kid="rsa-2")
    clock.advance(REFETCH - 9)
    with pytest.raises(Unavailable) as caught:
        await verifier.verify(new)
    assert caught.value.retry_after == 9
    assert own_issuer.requests == 1
    clock.advance(9)
    assert (await verifier.verify(new)).user_id == "u1"
    assert own_issuer.requests == 2
    with pytest.raises(Unavailable):
        await verifier.verify(old)
    clock.advance(REFETCH)
    with pytest.raises(Unauthorized):
        await verifier.verify(old)
    assert own_issuer.requests == 3


async def test_a_withdrawn_key_ends_with_the_next_refresh(verifier: Verifier, own_issuer: Issuer, clock: Clock) -> None:
    """The first token after `FRESH` begins it, and is the last one that the old set verifies."""
    text = token(claims(), own_issuer.rsa, "RS256", kid="rsa-1")
    await verifier.verify(text)
    own_issuer.keys = [jwk(own_issuer.rsa, "rsa-2")]
    clock.advance(FRESH - 1)
    await verifier.verify(text)
    assert own_issuer.requests == 1
    clock.advance(1)
    await verifier.verify(text)
    await verifier.verify(token(claims(), own_issuer.rsa, "RS256", kid="rsa-2"))  # waits for the refresh
    assert own_issuer.requests == 2
    with pytest.raises(Unavailable):
        await verifier.verify(text)
    clock.advance(REFETCH)
    with pytest.raises(Unauthorized):
        await verifier.verify(text)


async def test_after_an_idle_hour_a_withdrawn_key_is_refused(
    verifier: Verifier, own_issuer: Issuer, clock: Clock
) -> None:
    text = token(claims(), own_issuer.rsa, "RS256", kid="rsa-1")
    await verifier.verify(text)
    own_issuer.keys = []
    clock.advance(STALE)
    with pytest.raises(Unauthorized):
        await verifier.verify(text)


async def test_a_hanging_issuer_holds_no_known_key(verifier: Verifier, own_issuer: Issuer, clock: Clock) -> None:
    """The issuer accepts and never answers: every verification waited 5 s of every 30 s for it."""
    good = token(claims(), own_issuer.ec, "ES256", kid="ec-1")
    await verifier.verify(good)
    own_issuer.hang()
    clock.advance(FRESH)
    for _ in range(20):
        async with asyncio.timeout(TIMEOUT / 2):
            await asyncio.gather(*(verifier.verify(good) for _ in range(50)))
    rotated = verifier.verify(token(claims(), own_issuer.ec, "ES256", kid="ec-2"))
    waiting = asyncio.create_task(rotated)
    async with asyncio.timeout(TIMEOUT / 2):
        await asyncio.gather(*(verifier.verify(good) for _ in range(50)))
    assert not waiting.done(), "the key that is not known waits for the one refresh"
    own_issuer.keys = [jwk(own_issuer.ec, "ec-1"), jwk(own_issuer.ec, "ec-2")]
    own_issuer.recover()
    assert (await waiting).user_id == "u1"
    assert own_issuer.requests == 2


async def test_an_issuer_that_hangs_on_costs_one_wait(
    verifier: Verifier, own_issuer: Issuer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an idle hour the first verification waits, and no other one, however often the refresh fails."""
    good = token(claims(), own_issuer.ec, "ES256", kid="ec-1")
    unknown = token(claims(), own_issuer.ec, "ES256", kid="ec-2")
    await verifier.verify(good)
    monkeypatch.setattr("tidewire.security.jwks.TIMEOUT", 0.2)
    own_issuer.hang()
    clock.advance(STALE)
    await verifier.verify(good)
    clock.advance(REFETCH)
    monkeypatch.setattr("tidewire.security.jwks.TIMEOUT", TIMEOUT)
    async with asyncio.timeout(TIMEOUT / 2):
        await verifier.verify(good)
    own_issuer.status = 500
    own_issuer.recover()
    with pytest.raises(Unavailable):
        await verifier.verify(unknown)
    assert own_issuer.requests == 3


def test_a_key_just_rotated_in_is_a_503(make_instance: MakeInstance, own_issuer: Issuer) -> None:
    """Over HTTP, with an issuer that hangs: known keys verify, and a token with a new key is a 503."""
    api = Api(make_instance(REALTIME_JWKS_URL=own_issuer.url))
    good = token(claims(), own_issuer.ec, "ES256", kid="ec-1")
    assert is_taken(api, good)
    own_issuer.hang()
    response = api.acting(token=token(claims(), own_issuer.ec, "ES256", kid="ec-2")).get()
    problem_of(response, 503)
    assert 0 < int(response.headers["retry-after"]) <= REFETCH
    assert is_taken(api, good)
    assert own_issuer.requests == 1
    api.close()


BROKEN_ANSWERS: dict[str, tuple[int, bytes]] = {
    "an error": (500, b"{}"),
    "a redirect": (302, b""),
    "a page": (200, b"<html>maintenance</html>"),
    "a list": (200, b"[]"),
    "no keys": (200, b"{}"),
    "keys that are no list": (200, b'{"keys": {}}'),
    "too much": (200, b" " * 300_000 + b'{"keys": []}'),
    "nested too deep": (200, b"[" * 100_000),
}


@pytest.mark.parametrize(("status", "body"), BROKEN_ANSWERS.values(), ids=BROKEN_ANSWERS.keys())
async def test_with_the_issuer_down_cached_keys_stay_valid(
    verifier: Verifier, own_issuer: Issuer, clock: Clock, status: int, body: bytes
) -> None:
    good = token(claims(), own_issuer.ec, "ES256", kid="ec-1")
    await verifier.verify(good)
    own_issuer.status, own_issuer.body = status, body
    clock.advance(FRESH + 1)
    assert (await verifier.verify(good)).user_id == "u1"
    with pytest.raises(Unavailable):  # once the refresh has failed
        await verifier.verify(token(claims(), own_issuer.ec, "ES256", kid="unknown"))
    assert own_issuer.requests == 2
    for _ in range(5):
        await verifier.verify(good)
    assert own_issuer.requests == 2, "an issuer in trouble is not asked for each token"


async def test_an_issuer_that_was_down_is_fetched_again(verifier: Verifier, own_issuer: Issuer, clock: Clock) -> None:
    text = token(claims(), own_issuer.ed, "EdDSA", kid="ed-1")
    own_issuer.status = 503
    for _ in range(3):
        with pytest.raises(Unavailable):
            await verifier.verify(text)
    assert own_issuer.requests == 1
    own_issuer.status = 200
    clock.advance(REFETCH)
    assert (await verifier.verify(text)).user_id == "u1"


async def test_a_key_that_we_cannot_use_does_not_spoil_the_others(
    verifier: Verifier, own_issuer: Issuer, clock: Clock
) -> None:
    symmetric = {"kty": "oct", "kid": "oct-1", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "alg": "HS256"}
    own_issuer.keys = [
        symmetric,
        {"kty": "RSA", "kid": "rsa-1", "n": "!", "e": "AQAB"},
        {"kty": "EC", "kid": "ec-1", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": {}, "crv": []},
        "a text",
        None,
        jwk(own_issuer.rsa, "for-encryption", use="enc"),
        jwk(own_issuer.rsa, "for-another-algorithm", alg="RS512"),
        jwk(own_issuer.ed, "ed-1"),
    ]
    assert (await verifier.verify(token(claims(), own_issuer.ed, "EdDSA", kid="ed-1"))).user_id == "u1"
    for kid in ("for-encryption", "for-another-algorithm"):
        clock.advance(REFETCH)
        with pytest.raises(Unauthorized):
            await verifier.verify(token(claims(), own_issuer.rsa, "RS256", kid=kid))
    shared = jwt.utils.base64url_decode(symmetric["k"])
    with pytest.raises(Unauthorized):
        await verifier.verify(hs256_by_hand({"alg": "HS256", "kid": "oct-1"}, claims(), shared))


async def test_two_keys_for_one_algorithm_are_not_guessed_between(verifier: Verifier, own_issuer: Issuer) -> None:
    another = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    own_issuer.keys = [jwk(own_issuer.rsa, "rsa-1"), jwk(another, "rsa-2")]
    with pytest.raises(Unauthorized):
        await verifier.verify(token(claims(), own_issuer.rsa, "RS256"))
    await verifier.verify(token(claims(), another, "RS256", kid="rsa-2"))
