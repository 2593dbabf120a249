"""Peers end with their test."""

from collections.abc import Iterator

import pytest

from tests.integration.server import peers


@pytest.fixture(autouse=True)
def closed_peers() -> Iterator[None]:
    yield
    while peers.opened:
        peers.opened.pop().close()
