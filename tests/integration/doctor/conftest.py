"""The deployment that the doctor's tests share, and helpers to check it."""

from pathlib import Path
from typing import Any

import pytest
from tidewire.tools.doctor import CHECKS, Deployment, Finding, Limits, run_checks

from tests.support.certificates import certify
from tests.support.processes import Instance, StartInstance
from tests.support.tokens import LIMITED_KEY, MINTING_KEY, PUBLISH_KEY, SECRET

ORIGIN = "https://app.example.com"
HEARTBEAT = 0.2  # seconds
LIMITS = Limits(answer=2.0, heartbeat=HEARTBEAT, samples=2)


@pytest.fixture(scope="session")
def instance(start_instance: StartInstance) -> Instance:
    """An instance in memory, with authentication and a short heartbeat."""
    settings = {
        "REALTIME_PUBLISH_KEYS": ",".join(
            [
                PUBLISH_KEY,
                f"{LIMITED_KEY}:task-*",
                f"{MINTING_KEY}:tidewire.doctor",
                f"{MINTING_KEY}:realtime.tokens",
            ]
        ),
        "REALTIME_JWT_SECRET": SECRET,
        "REALTIME_ALLOWED_ORIGINS": ORIGIN,
        "REALTIME_HEARTBEAT": f"{HEARTBEAT}s",
    }
    return start_instance(settings)


@pytest.fixture(scope="session")
def open_instance(start_instance: StartInstance) -> Instance:
    """An instance in memory, without authentication and with a rate limit."""
    settings = {
        "REALTIME_HEARTBEAT": f"{HEARTBEAT}s",
        "REALTIME_ALLOWED_ORIGINS": ORIGIN,
        "REALTIME_PUBLISH_RATE": "40/600s",
    }
    return start_instance(settings)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that no server of the tests has."""
    file = tmp_path_factory.mktemp("authority") / "tls.pem"
    certify(file)
    return file


@pytest.fixture(autouse=True)
def _trusts_nobody(authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the default certificate authorities would take longer than the checks."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))


WITHOUT_STORE = [name for name in CHECKS if name != "store"]
"""The checks that need no address of the store."""


async def findings(
    url: str, *checks: str, key: str | None = PUBLISH_KEY, limits: Limits = LIMITS, **given: Any
) -> dict[str, Finding]:
    """The findings of these checks, or of all; without this shell's settings."""
    wanted = {name: check for name, check in CHECKS.items() if name in checks or not checks}
    async with Deployment(url, key, limits=limits, **{"origin": ORIGIN, "environ": {}, **given}) as deployment:
        found = [finding async for finding in run_checks(deployment, wanted)]
    assert [finding.check for finding in found] == list(wanted)
    assert all(finding.advice for finding in found if finding.verdict in ("warn", "fail"))
    return {finding.check: finding for finding in found}


def with_verdict(found: dict[str, Finding], verdict: str) -> list[str]:
    """The names of the checks with this verdict."""
    return [name for name, finding in found.items() if finding.verdict == verdict]
