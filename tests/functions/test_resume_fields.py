"""The cursor and the types in a query, as clients other than ours send them."""

from urllib.parse import quote

import pytest

from tests.support.api import Api, Json, data_of, unique

JSON = {"accept": "application/json"}


def page(api: Api, query: str, **headers: str) -> list[Json]:
    """The data of one page."""
    answer = api.http.get(f"/api/events?{query}", headers={**JSON, **headers})
    assert answer.status_code == 200, answer.text
    return [event["data"] for event in answer.json()["events"]]


def cursor_before(api: Api, kind: str) -> str:
    """A place after which there is one event of this type."""
    cursor = api.head()
    api.publish({"type": kind, "data": 1})
    return cursor


@pytest.mark.parametrize("name", ["last_event_id", "lastEventID"])
def test_each_name_of_the_cursor_resumes(any_api: Api, name: str) -> None:
    """tests/unit/protocol/test_subscribe_request.py has the others."""
    kind = unique()
    cursor = cursor_before(any_api, kind)
    assert page(any_api, f"types={kind}&{name}={quote(cursor)}") == [1]
    with any_api.stream(types=kind, **{name: cursor}) as stream:
        assert data_of(stream.ready()) == [1]


def test_the_header_wins_over_all_of_them(api: Api) -> None:
    """An EventSource keeps the URL that it was made with, and names its place in the header."""
    kind = unique()
    cursor = cursor_before(api, kind)
    old = quote(api.head())
    query = f"types={kind}&last_event_id={old}&lastEventId=another"
    assert page(api, query, **{"last-event-id": cursor}) == [1]


def test_a_polyfill_that_resumes_in_the_query_loses_nothing(short_lived: Api) -> None:
    """event-source-polyfill adds `lastEventId=` to the URL when a stream has ended, and sets no header."""
    kind = unique()
    received: list[Json] = []
    published = 0
    last_event_id = ""
    for _ in range(4):
        resume = {"lastEventId": last_event_id} if last_event_id else {}
        with short_lived.stream(types=kind, **resume) as stream:
            stream.decoder.last_event_id = last_event_id
            received += data_of(stream.ready())
            for _ in range(3):
                short_lived.publish({"type": kind, "data": published})
                published += 1
            received += data_of(stream.rest())
            last_event_id = stream.cursor
        for _ in range(2):
            short_lived.publish({"type": kind, "data": published})
            published += 1
    with short_lived.stream(types=kind, lastEventId=last_event_id) as stream:
        received += data_of(stream.ready())
    assert received == list(range(published))


def test_a_list_of_types_in_another_form_is_that_list(api: Api) -> None:
    """Libraries write a list in several ways; one that was ignored would bring every type there is."""
    one, two = unique(), unique()
    cursor = api.head()
    api.publish({"type": one, "data": 1}, {"type": unique(), "data": 2}, {"type": two, "data": 3})
    assert page(api, f"types%5B%5D={one}&types%5B%5D={two}&last_event_id={quote(cursor)}") == [1, 3]
