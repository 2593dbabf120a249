"""POST /api/tokens and /api/tickets: a signed token is valid for its user, types and lifetime only."""

import json
import time
from collections.abc import Mapping
from typing import Any

import httpx
import jwt
import pytest
from tidewire.errors import Unauthorized
from tidewire.security.signing import Signer
from tidewire.security.tokens import Identity

from tests.support.api import Api, check, data_of, pointers_of, problem_of, unique
from tests.support.clocks import Clock
from tests.support.processes import MakeInstance
from tests.support.tokens import LIMITED_KEY, MINTING_KEY, PUBLISH_KEY, SECRET, token, user_token

BEARER = "authorization"


def ask(api: Api, path: str, body: object = None, /, **headers: str) -> httpx.Response:
    content = b"" if body is None else json.dumps(body).encode()
    return api.http.post(path, content=content, headers={"content-type": "application/json", **headers})


def ask_for_token(api: Api, body: object, key: str = PUBLISH_KEY) -> httpx.Response:
    return ask(api, "/api/tokens", body, authorization=f"Bearer {key}")


def minted(api: Api, body: Mapping[str, Any], key: str = PUBLISH_KEY) -> str:
    response = ask_for_token(api, body, key)
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    check(response.json(), "Token")
    return str(response.json()["token"])


def ticket_for(api: Api, text: str) -> str:
    response = ask(api, "/api/tickets", authorization=f"Bearer {text}")
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    check(response.json(), "Ticket")
    return str(response.json()["ticket"])


def test_a_token_is_for_its_user_and_its_types_alone(guarded: Api) -> None:
    user, kind, other = unique("u"), unique("mine"), unique("other")
    publisher = guarded.acting(key=PUBLISH_KEY)
    text = minted(guarded, {"userId": user, "types": [kind], "ttl": 60})
    with guarded.acting(token=text).stream() as stream:
        stream.ready()
        for n, (of_type, users) in enumerate([(kind, [user]), (other, [user]), (kind, ["u2"]), (kind, None)]):
            publisher.publish({"type": of_type, "data": n, "userIds": users})
        assert [json.loads(stream.next().data), json.loads(stream.next().data)] == [0, 3]
    problem_of(guarded.acting(token=text).get(params={"types": other}), 403)


def test_a_token_is_valid_for_its_ttl_by_default_an_hour(guarded: Api) -> None:
    now = time.time()
    brief = jwt.decode(minted(guarded, {"ttl": 5}), SECRET, algorithms=["HS256"])
    usual = jwt.decode(minted(guarded, {}), SECRET, algorithms=["HS256"])
    assert brief.keys() == {"iat", "exp"}
    assert now - 1 <= brief["iat"] <= time.time()
    assert now + 3 <= brief["exp"] <= time.time() + 5
    assert now + 3_598 <= usual["exp"] <= time.time() + 3_600


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"ttl": 0}, "/ttl"),
        ({"ttl": 86_401}, "/ttl"),
        ({"ttl": 1.5}, "/ttl"),
        ({"ttl": "60"}, "/ttl"),
        ({"userId": ""}, "/userId"),
        ({"userId": "a\nb"}, "/userId"),
        ({"userId": ["u1"]}, "/userId"),
        ({"types": []}, "/types"),
        ({"types": ["t"] * 101}, "/types"),
        ({"types": ["a", "b c"]}, "/types/1"),
        ({"types": ["a*b"]}, "/types/0"),
        ({"types": ["**"]}, "/types/0"),
        ({"user_id": "u1"}, "/user_id"),
        ([], ""),
        (5, ""),
    ],
)
def test_an_invalid_token_request_gets_a_pointer(guarded: Api, body: object, pointer: str) -> None:
    assert pointers_of(problem_of(ask_for_token(guarded, body), 400)) == [pointer]


def test_only_a_permitted_publish_key_issues_tokens(guarded: Api) -> None:
    """A subscriber token, a ticket and a limited key without the permission do not."""
    for wrong in ("no-key", user_token("u1"), ticket_for(guarded, user_token("u1")), f"{PUBLISH_KEY}x"):
        problem_of(ask_for_token(guarded, {}, wrong), 401)
    refused = ask_for_token(guarded, {"types": ["task-updated"]}, LIMITED_KEY)
    assert "realtime.tokens" in problem_of(refused, 403)["detail"]
    assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]
    problem_of(ask(guarded, "/api/tokens", {}), 401)


def test_a_limited_key_gives_away_no_more_types_than_it_has(guarded: Api) -> None:
    for body in ({}, {"types": None}, {"types": ["*"]}, {"types": ["tas*"]}, {"types": ["task-1", "other"]}):
        problem_of(ask_for_token(guarded, body, MINTING_KEY), 403)
    for types in (["task-1"], ["task-*"], ["task-x-*", "task-1"]):
        claims = jwt.decode(minted(guarded, {"types": types}, MINTING_KEY), SECRET, algorithms=["HS256"])
        assert sorted(claims["types"]) == sorted(types)


def test_a_token_lives_no_longer_than_a_revocation_is_remembered(brief_memory: Api) -> None:
    pointer = pointers_of(problem_of(ask_for_token(brief_memory, {"ttl": 56}), 400))
    assert pointer == ["/ttl"]
    response = ask_for_token(brief_memory, {})
    assert response.json()["expiresIn"] == 55, "the retention, less the leeway"


def test_a_signature_from_a_clock_ahead_is_accepted(guarded: Api) -> None:
    """Tokens and tickets come from another instance, whose clock may be a little ahead or behind."""
    for off in (-3.0, 3.0):
        clock = Clock(time.time() + off)
        signer = Signer(SECRET, clock=clock)
        assert guarded.acting(token=signer.token("u1", None, 60)).get().status_code == 200
        ticket = signer.ticket(Identity("u1", issued_at=clock.now))
        assert guarded.get(params={"ticket": ticket}).status_code == 200


def test_a_ticket_opens_a_stream_of_the_tokens_user_and_types(guarded: Api) -> None:
    user, kind = unique("u"), unique("mine")
    publisher = guarded.acting(key=PUBLISH_KEY)
    ticket = ticket_for(guarded, user_token(user, types=[f"{kind}*"]))
    with guarded.stream(ticket=ticket) as stream:
        stream.ready()
        publisher.publish({"type": kind + "-other", "data": 1, "userIds": ["u2"]})
        publisher.publish({"type": "another", "data": 2, "userIds": [user]})
        publisher.publish({"type": kind + "-x", "data": 3, "userIds": [user]})
        assert json.loads(stream.next().data) == 3
    page = guarded.page(ticket=ticket, from_="earliest")
    assert [event["data"] for event in page["events"]] == [3]
    problem_of(guarded.get(params={"ticket": ticket, "types": "another"}), 403)


def test_a_ticket_is_for_the_stream_alone(guarded: Api) -> None:
    ticket, text = ticket_for(guarded, user_token("u1")), user_token("u1")
    problem_of(guarded.acting(token=ticket).get(), 401)
    problem_of(guarded.get({"cookie": f"realtime_token={ticket}"}), 401)
    problem_of(ask(guarded, "/api/tickets", authorization=f"Bearer {ticket}"), 401)
    problem_of(guarded.http.post("/api/tickets", params={"ticket": ticket}), 401)
    problem_of(guarded.get(params={"ticket": text}), 401)
    problem_of(guarded.http.post("/api/publish", params={"ticket": ticket}, json={"type": "t", "data": 1}), 401)


def test_a_ticket_that_is_forged_altered_or_old_opens_nothing(guarded: Api) -> None:
    ticket = ticket_for(guarded, user_token("u1"))
    head, claims, signature = ticket.split(".")
    forged = token({"sub": "u1", "exp": time.time() + 60}, "another-secret-of-at-least-32-bytes-", typ="ticket+jwt")
    for wrong in (
        "",
        "x",
        "a.b.c",
        forged,
        f"{head}.{claims}.{signature[:-4]}AAAA",
        f"{head}..{signature}",
        "x" * 9_000,
    ):
        response = guarded.get(params={"ticket": wrong})
        problem_of(response, 401)
        assert response.headers["www-authenticate"] == 'Bearer realm="tidewire", error="invalid_token"'


def test_a_ticket_of_more_than_a_minute_ago_opens_nothing() -> None:
    clock = Clock(time.time() - 66)
    signer = Signer(SECRET, clock=clock)
    old = signer.ticket(Identity("u1"))
    clock.advance(11)
    recent = signer.ticket(Identity("u1"))
    with pytest.raises(Unauthorized, match="expired"):
        signer.redeem(old)
    assert signer.redeem(recent).user_id == "u1"


def test_header_precedes_ticket_precedes_cookie(guarded: Api) -> None:
    user = unique("u")
    guarded.acting(key=PUBLISH_KEY).publish({"type": unique(), "data": "mine", "userIds": [user]})
    ticket = ticket_for(guarded, user_token(user))

    def heard(headers: Mapping[str, str], ticket: str) -> list[object]:
        response = guarded.get(headers, {"ticket": ticket, "from": "earliest"})
        assert response.status_code == 200, response.text
        return [event["data"] for event in response.json()["events"] if event["data"] == "mine"]

    assert heard({"cookie": f"realtime_token={user_token('u2')}"}, ticket) == ["mine"]
    assert heard({BEARER: f"Bearer {user_token('u2')}"}, ticket) == []
    problem_of(guarded.get({"cookie": f"realtime_token={user_token(user)}"}, {"ticket": "x"}), 401)


def test_a_stream_opened_by_ticket_ends_with_the_token(guarded: Api) -> None:
    """The ticket itself expires much earlier."""
    expires = int(time.time()) + 3
    ticket = ticket_for(guarded, user_token("u1", exp=expires))
    with guarded.stream(ticket=ticket) as stream:
        events = stream.rest()
    assert json.loads(events[-1].data) == {"reason": "token-expired"}
    assert expires - 0.1 <= time.time() < expires + 4, "the leeway is for those who come"
    with pytest.raises(Unauthorized, match="The token that the ticket was made from has expired"):
        Signer(SECRET, leeway=5.0, clock=lambda: time.time() + 6).redeem(ticket)


def test_the_response_names_the_address_of_streams(guarded: Api, brief_memory: Api) -> None:
    for api, url in ((guarded, "/api/events"), (brief_memory, "https://streams.example.com/api/events")):
        response = ask(api, "/api/tickets", authorization=f"Bearer {user_token('u1')}")
        assert response.json()["url"] == url
    cookie = ask(guarded, "/api/tickets", cookie=f"realtime_token={user_token('u1')}")
    assert cookie.status_code == 200


def test_a_501_names_the_missing_setting(api: Api) -> None:
    assert "REALTIME_JWT_SECRET" in problem_of(ask(api, "/api/tokens", {}), 501)["detail"]
    assert "Authentication is off" in problem_of(ask(api, "/api/tickets"), 501)["detail"]


def test_without_authentication_no_stranger_gets_a_token(make_instance: MakeInstance) -> None:
    """Its token would open the streams of another deployment with the same secret, which requires tokens."""
    without_keys = Api(make_instance(REALTIME_AUTH="none", REALTIME_JWT_SECRET=SECRET))
    assert "REALTIME_PUBLISH_KEYS" in problem_of(ask(without_keys, "/api/tokens", {"userId": "u1"}), 501)["detail"]
    assert "Authentication is off" in problem_of(ask(without_keys, "/api/tickets"), 501)["detail"]
    without_keys.close()
    settings = {"REALTIME_JWT_SECRET": SECRET, "REALTIME_PUBLISH_KEYS": f"{PUBLISH_KEY},{LIMITED_KEY}:task-*"}
    instance = make_instance(REALTIME_AUTH="none", **settings)
    with_keys = Api(instance)
    problem_of(ask(with_keys, "/api/tokens", {"userId": "u1"}), 401)
    problem_of(ask_for_token(with_keys, {"userId": "u1"}, "made up"), 401)
    problem_of(ask_for_token(with_keys, {"types": ["task-1"]}, LIMITED_KEY), 403)
    assert minted(with_keys, {"userId": "u1"})
    problem_of(ask(with_keys, "/api/revocations", {"userId": "u1"}), 501)
    assert with_keys.post(b'{"type": "t", "data": 1}').status_code == 202
    with_keys.close()
    assert "REALTIME_AUTH=none: everyone can publish" in instance.log_file.read_text()


def test_a_body_that_is_no_json_or_too_long_is_refused(guarded: Api) -> None:
    key = {"authorization": f"Bearer {PUBLISH_KEY}"}
    typed = {**key, "content-type": "application/json"}
    problem_of(guarded.http.post("/api/tokens", content=b"{}", headers={**key, "content-type": "text/plain"}), 415)
    problem_of(guarded.http.post("/api/tokens", content=b"{", headers=typed), 400)
    problem_of(guarded.http.post("/api/tokens", content=b'{"ttl":1,"ttl":2}', headers=typed), 400)
    problem_of(guarded.http.post("/api/tokens", content=b" " * 65_537, headers=typed), 413)


def test_a_warned_client_renews_its_token_without_a_gap(guarded: Api) -> None:
    """`realtime.expiring` comes 30 s before the token expires."""
    user, kind = unique("u"), unique()
    publisher = guarded.acting(key=PUBLISH_KEY)
    first = guarded.acting(token=user_token(user, exp=int(time.time()) + 32))
    with first.stream(types=kind) as stream:
        stream.ready()
        publisher.publish({"type": kind, "data": 1, "userIds": [user]})
        before, warning = stream.next(), stream.next()
        assert warning.type == "realtime.expiring"
        assert json.loads(warning.data) == {"seconds": 30}
        assert warning.last_event_id == before.last_event_id, "a warning has no place of its own"
        publisher.publish({"type": kind, "data": 2, "userIds": [user]})  # while the client fetches its next token
        with guarded.acting(token=user_token(user)).stream({"last-event-id": stream.cursor}, types=kind) as renewed:
            assert data_of(renewed.ready()) == [2]
        assert json.loads(stream.next().data) == 2, "the old stream goes on until its token ends"


def test_a_token_close_to_expiry_is_announced_after_ready(guarded: Api) -> None:
    brief = guarded.acting(token=user_token("u1", exp=int(time.time()) + 20))
    with brief.stream(types=unique()) as stream:
        assert stream.ready() == []
        warning = stream.next()
    assert warning.type == "realtime.expiring"
    assert 0 < json.loads(warning.data)["seconds"] <= 20


def test_a_short_stream_with_a_long_token_is_not_warned(short_guarded: Api) -> None:
    with short_guarded.acting(token=user_token("u1")).stream() as stream:
        stream.ready()
        assert [event.type for event in stream.rest()] == ["realtime.closing"]
