"""Subscriber tokens signed with the shared secret: the user of each, and the tokens that are refused."""

import time
from typing import Any

import pytest

from tests.support.api import Api, data_of, problem_of, unique
from tests.support.tokens import PUBLISH_KEY, SECRET, hs256_by_hand, token, unsigned, user_token

BARE = 'Bearer realm="tidewire"'
INVALID = 'Bearer realm="tidewire", error="invalid_token"'
SCOPE = 'Bearer realm="tidewire", error="insufficient_scope"'
SOON, LONG_AGO = int(time.time()) + 3_600, int(time.time()) - 3_600


def refused(api: Api, text: str) -> str:
    """The challenge with which this token is refused, for a stream as for a page."""
    page = api.acting(token=text).get()
    problem = problem_of(page, 401)
    assert problem_of(api.acting(token=text).get({"accept": "text/event-stream"}), 401) == problem
    for part in text.split("."):
        assert len(part) < 8 or part not in page.text
    return page.headers["www-authenticate"]


def test_a_subscriber_receives_public_and_own_events(guarded: Api) -> None:
    kind, user = unique(), unique("u")
    publisher = guarded.acting(key=PUBLISH_KEY)
    with guarded.acting(token=user_token(user)).stream(types=kind) as stream:
        stream.ready()
        publisher.publish(
            {"type": kind, "data": 1, "userIds": [user]},
            {"type": kind, "data": 2, "userIds": [unique("u")]},
            {"type": kind, "data": 3},
        )
        assert data_of([stream.next(), stream.next()]) == [1, 3]


def test_a_token_without_a_user_gets_only_public_events(guarded: Api) -> None:
    kind = unique()
    start = guarded.acting(token=user_token(None)).head()
    guarded.acting(key=PUBLISH_KEY).publish(
        {"type": kind, "data": 1, "userIds": ["None", "null", "undefined"]}, {"type": kind, "data": 2}
    )
    page = guarded.acting(token=user_token(None)).page(types=kind, last_event_id=start)
    assert [event["data"] for event in page["events"]] == [2]


def test_no_token_is_a_401_without_an_error_code(guarded: Api) -> None:
    for response in (guarded.get(), guarded.get({"cookie": "other=1"}), guarded.get({"authorization": "Basic dTpw"})):
        problem_of(response, 401)
        assert response.headers["www-authenticate"] == BARE


def test_a_publish_key_is_no_subscribers_token(guarded: Api) -> None:
    assert refused(guarded, PUBLISH_KEY) == INVALID


BY_CLAIM: dict[str, dict[str, Any]] = {
    "expired": {"exp": LONG_AGO},
    "expired before the leeway": {"exp": int(time.time()) - 6},
    "exp is a text": {"exp": "tomorrow"},
    "exp is null": {"exp": None},
    "exp is infinite": {"exp": float("inf")},
    "exp is no number": {"exp": float("nan")},
    "exp is beyond every number": {"exp": 10**400},
    "not valid yet": {"nbf": SOON},
    "issued in the future": {"iat": SOON},
    "sub is a number": {"sub": 7},
    "sub is empty": {"sub": ""},
    "sub is too long": {"sub": "u" * 257},
    "sub holds a line end": {"sub": "u1\nid: 5"},
    "sub holds a NUL": {"sub": "u1\0"},
    "sub holds half a character": {"sub": "\ud800"},
    "types is a text": {"types": "a"},
    "types is an object": {"types": {"a": 1}},
    "types holds a number": {"types": ["a", 1]},
    "types holds what is no type": {"types": ["a*b"]},
    "types holds a line end": {"types": ["a\nb"]},
}


@pytest.mark.parametrize("claims", BY_CLAIM.values(), ids=BY_CLAIM.keys())
def test_a_token_whose_claims_do_not_hold_is_refused(guarded: Api, claims: dict[str, Any]) -> None:
    whole = {"sub": "u1", "exp": SOON, **claims}
    assert refused(guarded, hs256_by_hand({"alg": "HS256", "typ": "JWT"}, whole, SECRET.encode())) == INVALID


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_clock_that_is_2_s_ahead_is_within_the_leeway(guarded: Api, claim: str) -> None:
    """The leeway was 0 by default: a token that an issuer with such a clock had just made was refused."""
    early = token({"sub": "u1", "exp": SOON, claim: time.time() + 2})
    assert guarded.acting(token=early).get().status_code == 200


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_not_valid_yet_gets_a_retry_after(guarded: Api, claim: str) -> None:
    response = guarded.acting(token=token({"sub": "u1", "exp": SOON, claim: int(time.time()) + 65})).get()
    assert problem_of(response, 401)["detail"] == "The token is not valid yet"
    assert response.headers["www-authenticate"] == INVALID
    assert 30 < int(response.headers["retry-after"]) <= 60


@pytest.mark.parametrize(
    "wrong",
    [{"exp": LONG_AGO}, {"nbf": "soon"}, {"sub": 7, "nbf": 0}, {"iat": float("inf")}, {"iat": [1]}],
    ids=["expired", "nbf is a text", "not ahead", "iat is infinite", "iat is a list"],
)
def test_an_error_that_waiting_cannot_fix_has_no_retry_after(guarded: Api, wrong: dict[str, Any]) -> None:
    claims = {"sub": "u1", "exp": SOON, "nbf": SOON, "iat": SOON, **wrong}
    if "sub" in wrong:
        del claims["iat"]
    response = guarded.acting(token=token(claims)).get()
    problem_of(response, 401)
    assert "retry-after" not in response.headers


def test_the_retry_after_of_a_far_future_token_is_one_day(guarded: Api) -> None:
    response = guarded.acting(token=token({"sub": "u1", "nbf": 253_402_300_799})).get()
    problem_of(response, 401)
    assert response.headers["retry-after"] == "86400"


BY_HEADER: dict[str, dict[str, Any]] = {
    "no algorithm": {},
    "algorithm none": {"alg": "none"},
    "algorithm None": {"alg": "None"},
    "an empty algorithm": {"alg": ""},
    "an algorithm that is a list": {"alg": ["HS256"]},
    "hs256 in small letters": {"alg": "hs256"},
    "HS512, which nobody has configured": {"alg": "HS512"},
    "RS256 where there is no key set": {"alg": "RS256", "kid": "rsa-1"},
    "a logout token": {"alg": "HS256", "typ": "logout+jwt"},
    "a proof of possession": {"alg": "HS256", "typ": "dpop+jwt"},
    "a typ that is a number": {"alg": "HS256", "typ": 5},
    "an extension that we do not understand but must": {"alg": "HS256", "crit": ["exp2"], "exp2": 1},
    "an unencoded payload": {"alg": "HS256", "crit": ["b64"], "b64": False},
    "a kid that is a path": {"alg": "none", "kid": "/dev/null"},
    "a kid that is an object": {"alg": "HS256", "kid": {}},
}


@pytest.mark.parametrize("header", BY_HEADER.values(), ids=BY_HEADER.keys())
def test_a_token_does_not_choose_how_it_is_verified(guarded: Api, header: dict[str, Any]) -> None:
    assert refused(guarded, hs256_by_hand(header, {"sub": "u1", "exp": SOON}, SECRET.encode())) == INVALID


CLAIMS = {"sub": "u1", "exp": SOON}
FORGED = {
    "another secret": token(CLAIMS, "x" * 40),
    "an empty secret": hs256_by_hand({"alg": "HS256"}, CLAIMS, b""),
    "unsigned": unsigned(CLAIMS),
    "unsigned and called HS256": unsigned(CLAIMS, "HS256"),
    "a signature of zeros": unsigned(CLAIMS, "HS256", "A" * 43),
    "the signature of another token": user_token("u1").rsplit(".", 1)[0] + "." + user_token("u2").rsplit(".", 1)[1],
    "one part": "abc",
    "two parts": "abc.def",
    "four parts": user_token("u1") + ".abc",
    "no base64": "!.!.!",
    "a header that is a list": hs256_by_hand([1], CLAIMS, SECRET.encode()),
    "claims that are a list": hs256_by_hand({"alg": "HS256"}, [1], SECRET.encode()),
    "not ASCII": "\xfc.\xfc.\xfc",
    "a header of nothing but brackets": "W1tb" * 2_000 + ".e30.x",
    "too long, though it holds": user_token("u1", pad="x" * 9_000),
}


@pytest.mark.parametrize("text", FORGED.values(), ids=FORGED.keys())
def test_a_token_that_we_did_not_sign_is_refused(guarded: Api, text: str) -> None:
    assert refused(guarded, text) == INVALID


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", None])
def test_token_types_of_access_tokens_are_accepted(guarded: Api, typ: str | None) -> None:
    header = {"alg": "HS256"} if typ is None else {"alg": "HS256", "typ": typ}
    text = hs256_by_hand(header, CLAIMS, SECRET.encode())
    assert guarded.acting(token=text).get().status_code == 200


def test_the_header_precedes_the_cookie(guarded: Api) -> None:
    kind, user, other = unique(), unique("u"), unique("u")
    start = guarded.acting(token=user_token(None)).head()
    guarded.acting(key=PUBLISH_KEY).publish(
        {"type": kind, "data": "mine", "userIds": [user]}, {"type": kind, "data": "theirs", "userIds": [other]}
    )
    params = {"types": kind, "last_event_id": start}

    def heard(headers: dict[str, str]) -> list[object]:
        response = guarded.get(headers, params)
        assert response.status_code == 200, response.text
        return [event["data"] for event in response.json()["events"]]

    cookie = f"a=b; realtime_token={user_token(user)}; c=d"
    assert heard({"cookie": cookie}) == ["mine"]
    assert heard({"cookie": f'realtime_token="{user_token(user)}"'}) == ["mine"]
    assert heard({"cookie": cookie, "authorization": f"Bearer {user_token(other)}"}) == ["theirs"]
    for bad in ("realtime_token=", "xrealtime_token=" + user_token(user), "realtime_tokens=" + user_token(user)):
        problem_of(guarded.get({"cookie": bad}, params), 401)
    # A valid cookie does not replace an invalid header.
    problem_of(guarded.get({"cookie": cookie, "authorization": "Bearer x"}, params), 401)


def test_a_token_in_the_query_is_ignored(guarded: Api) -> None:
    """URLs are logged."""
    problem_of(guarded.get(params={"token": user_token("u1"), "access_token": user_token("u1")}), 401)


def test_a_token_delivers_its_types_and_no_others(guarded: Api) -> None:
    allowed, also, other = unique(), unique(), unique()
    start = guarded.acting(token=user_token(None)).head()
    batch = [{"type": kind, "data": kind} for kind in (allowed, also, other)]
    guarded.acting(key=PUBLISH_KEY).publish(*batch)
    subscriber = guarded.acting(token=user_token("u1", types=[allowed, also]))

    def heard(**params: str) -> list[object]:
        return [event["data"] for event in subscriber.page(last_event_id=start, **params)["events"]]

    assert heard() == [allowed, also]
    assert heard(types=also) == [also]
    with subscriber.stream(from_="earliest") as stream:
        assert data_of(stream.ready()) == [allowed, also]
    with guarded.acting(token=user_token("u1")).stream(types=f"{also},{other}", last_event_id=start) as stream:
        assert data_of(stream.ready()) == [also, other], "without the claim, all types are allowed"


def test_a_type_that_the_token_does_not_allow_is_a_403(guarded: Api) -> None:
    """Not a stream that stays silent."""
    subscriber = guarded.acting(token=user_token("u1", types=["a", "b"]))
    for types in ("c", "a,c"):
        response = subscriber.get(params={"types": types})
        assert "'c'" in problem_of(response, 403)["detail"]
        assert response.headers["www-authenticate"] == SCOPE


@pytest.mark.parametrize("params", [{}, {"types": "a"}, {"last_event_id": "x"}, {"from": "earliest"}])
def test_a_token_that_allows_no_type_is_a_403(guarded: Api, params: dict[str, str]) -> None:
    response = guarded.acting(token=user_token("u1", types=[])).get(params=params)
    problem_of(response, 403)
    assert response.headers["www-authenticate"] == SCOPE
