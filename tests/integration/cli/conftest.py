"""The instance that the tests of commands share; each test uses its own user or type."""

import pytest

from tests.support.processes import Instance, StartInstance
from tests.support.tokens import PUBLISH_KEY, SECRET


@pytest.fixture(scope="session")
def instance(start_instance: StartInstance) -> Instance:
    """An instance in memory, with authentication."""
    settings = {
        "REALTIME_PUBLISH_KEYS": PUBLISH_KEY,
        "REALTIME_JWT_SECRET": SECRET,
        "REALTIME_ALLOWED_ORIGINS": "https://app.example.com",
    }
    return start_instance(settings)


@pytest.fixture
def at(instance: Instance) -> dict[str, str]:
    """The settings of a user of this instance."""
    return {"TIDEWIRE_URL": instance.url, "TIDEWIRE_KEY": PUBLISH_KEY, "REALTIME_JWT_SECRET": SECRET}
