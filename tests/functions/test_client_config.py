"""GET /api/config: what a client must know before it subscribes; it infers nothing from a status."""

from tests.functions.conftest import ORIGIN
from tests.support.api import Api, check
from tests.support.tokens import user_token

CONFIG = "/api/config"


def test_it_names_whether_tokens_are_needed_and_from_where(api: Api, guarded: Api, brief_memory: Api) -> None:
    for instance, auth, url in (
        (api, "none", "/api/events"),
        (guarded, "required", "/api/events"),
        (brief_memory, "required", "https://streams.example.com/api/events"),
    ):
        response = instance.http.get(CONFIG)
        assert response.status_code == 200
        assert response.headers["cache-control"] == "no-store"
        check(response.json(), "Config")
        assert response.json() == {"auth": auth, "streamUrl": url}


def test_no_credential_changes_it_and_pages_may_read_it(guarded: Api) -> None:
    public = guarded.http.get(CONFIG, headers={"origin": ORIGIN})
    assert public.headers["access-control-allow-origin"] == ORIGIN
    for text in (user_token("u1"), "no.token.at-all"):
        assert guarded.http.get(CONFIG, headers={"authorization": f"Bearer {text}"}).json() == public.json()
    stranger = guarded.http.get(CONFIG, headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in stranger.headers
