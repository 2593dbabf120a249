"""Each scheme in turn, as a source of a `realtime.toml` with two secrets."""

import time
from pathlib import Path

import pytest
from tidewire.ingest.webhooks.sources import Receiver, read_sources

from tests.unit.ingest.webhooks.signers import SIGNERS, Signer


@pytest.fixture(params=SIGNERS)
def signer(request: pytest.FixtureRequest) -> Signer:
    """The provider."""
    return SIGNERS[request.param]


@pytest.fixture
def receiver(signer: Signer, tmp_path: Path) -> Receiver:
    """The source of this provider."""
    return make_receiver(signer, tmp_path)


def make_receiver(signer: Signer, folder: Path) -> Receiver:
    """The same, for a signer that the test chooses."""
    file = folder / "realtime.toml"
    file.write_text(signer.table("provider"))
    return Receiver(read_sources(str(file))["provider"], signer.environ())


@pytest.fixture(autouse=True)
def now(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the test module's NOW to the time of the test: a token could expire between collection and test."""
    if hasattr(request.module, "NOW"):
        monkeypatch.setattr(request.module, "NOW", int(time.time()))
