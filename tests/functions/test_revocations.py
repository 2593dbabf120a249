"""POST /api/revocations: a user's tokens end before their time, on every instance."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.functions.test_issuing import ask, minted, ticket_for
from tests.support.api import Api, check, data_of, pointers_of, problem_of, unique
from tests.support.processes import MakeInstance
from tests.support.sse_decoder import SseEvent
from tests.support.tokens import LIMITED_KEY, PUBLISH_KEY, SECRET, user_token

KEYS = f"{PUBLISH_KEY},revoking-key:realtime.revocations,{LIMITED_KEY}:task-*"


def revoke(api: Api, user: object, key: str = PUBLISH_KEY) -> httpx.Response:
    return ask(api, "/api/revocations", {"userId": user}, authorization=f"Bearer {key}")


def revoked(api: Api, user: str, key: str = PUBLISH_KEY) -> None:
    response = revoke(api, user, key)
    assert response.status_code == 202, response.text
    check(response.json(), "Revocation")
    assert response.json()["userId"] == user


def since(seconds: float, user: str) -> str:
    """A token of an hour, issued so many seconds ago."""
    return user_token(user, iat=time.time() - seconds)


def reason_of(event: SseEvent) -> str:
    assert event.type == "realtime.closing"
    return str(json.loads(event.data)["reason"])


@pytest.fixture(params=["redis", "redis-pubsub"])
def settings(request: pytest.FixtureRequest, redis_settings: dict[str, str]) -> dict[str, str]:
    return {
        **redis_settings,
        "REALTIME_TRANSPORT": request.param,
        "REALTIME_PREFIX": unique("p")[:20],
        "REALTIME_AUTH": "required",
        "REALTIME_PUBLISH_KEYS": KEYS,
        "REALTIME_JWT_SECRET": SECRET,
    }


def test_only_the_user_s_streams_end_on_every_instance(make_instance: MakeInstance, settings: dict[str, str]) -> None:
    here, there = Api(make_instance(**settings)), Api(make_instance(**settings))
    user, other, kind = unique("u"), unique("u"), unique()
    old, of_other = since(5, user), since(5, other)
    with (
        here.acting(token=old).stream() as one,
        there.stream(ticket=ticket_for(there, old)) as two,
        there.acting(token=user_token(user)).stream() as undated,
        there.acting(token=of_other).stream(types=kind) as others,
    ):
        for stream in (one, two, undated, others):
            stream.ready()
        revoked(here, user, "revoking-key")
        assert [reason_of(stream.rest()[-1]) for stream in (one, two, undated)] == ["revoked"] * 3
        here.acting(key=PUBLISH_KEY).publish({"type": kind, "data": "on"})
        assert json.loads(others.next().data) == "on"
    for api in (here, there):
        if settings["REALTIME_TRANSPORT"] == "redis":  # otherwise only if a stream is open
            assert "revoked" in problem_of(api.acting(token=old).get(), 401)["detail"]
            refused = api.http.get("/api/events", headers={"authorization": f"Bearer {old}"})
            problem_of(refused, 401)
            problem_of(api.get(params={"ticket": ticket_for(api, old)}), 401)
            problem_of(api.acting(token=old).get(params={"wait": "5"}), 401)
        assert api.acting(token=of_other).get().status_code == 200
        fresh = api.acting(token=minted(api, {"userId": user}))
        with fresh.stream(types=kind) as stream:
            stream.ready()
    here.close()
    there.close()


def test_a_later_instance_refuses_revoked_tokens(make_instance: MakeInstance, redis_settings: dict[str, str]) -> None:
    settings = {
        **redis_settings,
        "REALTIME_PREFIX": unique("p")[:20],
        "REALTIME_AUTH": "required",
        "REALTIME_PUBLISH_KEYS": KEYS,
        "REALTIME_JWT_SECRET": SECRET,
    }
    user = unique("u")
    old = since(5, user)
    first = Api(make_instance(**settings))
    revoked(first, user)
    first.close()
    first.instance.stop()
    later = Api(make_instance(**settings))
    problem_of(later.acting(token=old).get(), 401)
    problem_of(later.http.get("/api/events", headers={"authorization": f"Bearer {old}"}), 401)
    with later.acting(token=minted(later, {"userId": user})).stream() as stream:
        stream.ready()
    later.close()


def test_subscribers_never_receive_or_publish_revocations(guarded: Api) -> None:
    user, kind = unique("u"), unique()
    watcher = guarded.acting(token=user_token(unique("u")))
    cursor = watcher.head()
    with watcher.stream({"last-event-id": cursor}) as stream:
        stream.ready()
        revoked(guarded, user)
        guarded.acting(key=PUBLISH_KEY).publish({"type": kind, "data": "end"})
        heard = stream.until(kind)
        assert not any("revo" in event.type or user in event.data for event in heard)
    page = watcher.page(last_event_id=cursor)
    assert not any("revo" in event["type"] for event in page["events"])
    forged = {"type": "realtime.revocations", "data": {"userId": user, "before": 2e9}}
    problem_of(guarded.acting(key=PUBLISH_KEY).post(json.dumps(forged).encode()), 400)


def test_a_long_poll_of_a_user_whose_tokens_are_revoked_ends(guarded: Api) -> None:
    user = unique("u")
    poller = guarded.acting(token=since(5, user))
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        poll = pool.submit(poller.get, None, {"types": unique(), "wait": "20"})
        while poller.get().status_code == 200:  # one of these revocations comes while the poll is open
            revoked(guarded, user)
        page = poll.result()
    assert time.monotonic() - began < 15
    assert page.status_code == 401 or page.json()["events"] == []


def test_a_newer_token_resumes_after_a_revocation(guarded: Api) -> None:
    user, kind = unique("u"), unique()
    publisher = guarded.acting(key=PUBLISH_KEY)
    with guarded.acting(token=since(5, user)).stream(types=kind) as stream:
        stream.ready()
        publisher.publish({"type": kind, "data": 1, "userIds": [user]})
        assert json.loads(stream.next().data) == 1
        revoked(guarded, user)
        assert reason_of(stream.rest()[-1]) == "revoked"
    publisher.publish({"type": kind, "data": 2, "userIds": [user]})
    renewed = guarded.acting(token=minted(guarded, {"userId": user}))
    with renewed.stream({"last-event-id": stream.cursor}, types=kind) as resumed:
        assert data_of(resumed.ready()) == [2]


def test_only_a_key_with_the_right_can_revoke(guarded: Api, api: Api) -> None:
    problem_of(revoke(guarded, "u1", "no-key"), 401)
    problem_of(revoke(guarded, "u1", user_token("u1")), 401)
    assert "realtime.revocations" in problem_of(revoke(guarded, "u1", LIMITED_KEY), 403)["detail"]
    problem_of(revoke(api, "u1"), 501)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({}, "/userId"), ({"userId": ""}, "/userId"), ({"userId": None}, "/userId"), ({"userId": "u", "x": 1}, "/x")],
)
def test_a_revocation_without_a_user_gets_a_pointer(guarded: Api, body: object, pointer: str) -> None:
    response = ask(guarded, "/api/revocations", body, authorization=f"Bearer {PUBLISH_KEY}")
    assert pointers_of(problem_of(response, 400)) == [pointer]
    typed = {"authorization": f"Bearer {PUBLISH_KEY}", "content-type": "text/plain"}
    problem_of(guarded.http.post("/api/revocations", content=b"{}", headers=typed), 415)
