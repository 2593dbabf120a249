"""What the tests of the delivery room share."""

import pytest
from tidewire.delivery.fanout import Fanout
from tidewire.delivery.ring_buffer import Ring
from tidewire.model.cursor import Position
from tidewire.model.partitions import ALL


@pytest.fixture
def fanout() -> Fanout:
    """A fan-out whose tail is at the start of a partition."""
    fanout = Fanout(Ring())
    fanout.positions[ALL] = Position(7, 0)
    return fanout
