"""The instance that the tests of commands share; each test uses its own user or type."""

from collections.abc import Iterator

import pytest

from tests.support.processes import Instance
from tests.support.tokens import PUBLISH_KEY, SECRET


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance in memory, with authentication."""
    settings = {
        "REALTIME_PUBLISH_KEYS": PUBLISH_KEY,
        "REALTIME_JWT_SECRET": SECRET,
        "REALTIME_ALLOWED_ORIGINS": "https://app.example.com",
    }
    instance = Instance(tmp_path_factory.mktemp("cli"), settings).start()
    yield instance
    instance.stop()


@pytest.fixture
def at(instance: Instance) -> dict[str, str]:
    """The settings of a user of this instance."""
    return {"TIDEWIRE_URL": instance.url, "TIDEWIRE_KEY": PUBLISH_KEY, "REALTIME_JWT_SECRET": SECRET}
