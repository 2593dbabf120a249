"""A cursor beyond the head, forged or from a log that fell back: it yields a gap at most, and hides nothing."""

import json

import pytest
from tidewire.model.cursor import MAX_OFFSET, Cursor

from tests.support.api import Api, data_of, unique


@pytest.mark.parametrize("ahead", [1, 1_000, MAX_OFFSET])
def test_a_cursor_from_the_future_is_a_gap_and_hides_nothing(any_api: Api, ahead: int) -> None:
    kind = unique()
    before = any_api.publish({"type": kind, "data": 1})[0]["cursor"]
    cursor = Cursor.parse(before)
    assert cursor is not None
    ((name, place),) = cursor.positions.items()
    future = Cursor({name: place._replace(offset=min(place.offset + ahead, MAX_OFFSET), check="ffffffff")}).encode()
    with any_api.stream({"last-event-id": future}, types=kind) as stream:
        gap, *replayed = stream.ready()
        assert (gap.type, json.loads(gap.data)) == ("realtime.gap", {"reason": "epoch", "recovered": False})
        assert data_of(replayed) == [1], "all that the log holds may be unseen"
        any_api.publish({"type": kind, "data": 2})
        assert json.loads(stream.next().data) == 2
    page = any_api.page(types=kind, last_event_id=future)
    assert page["gap"] == {"reason": "epoch", "recovered": False}
    assert [event["data"] for event in page["events"]] == [1, 2]


def test_a_cursor_of_another_epoch_is_a_gap(any_api: Api) -> None:
    """Also if its offset is behind the head of the current epoch."""
    kind = unique()
    cursor = Cursor.parse(any_api.publish({"type": kind, "data": 1})[0]["cursor"])
    assert cursor is not None
    ((name, place),) = cursor.positions.items()
    for epoch in (0, place.epoch - 1, place.epoch + 1, 2**48 - 1):
        forged = Cursor({name: place._replace(epoch=epoch, offset=0)}).encode()
        page = any_api.page(types=kind, last_event_id=forged)
        assert page["gap"]["reason"] == "epoch"
        assert [event["data"] for event in page["events"]] == [1]
