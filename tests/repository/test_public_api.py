"""`import tidewire` offers the public names, and loads each one's module at its first use."""

import subprocess
import sys

import pytest
import tidewire

from tests.support.processes import ROOT


def loaded(code: str) -> set[str]:
    """The modules of Tidewire and its servers and clients that this code imports."""
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys, tidewire\n{code}\nprint(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        name for name in ended.stdout.split() if name.split(".")[0] in ("tidewire", "starlette", "httpx", "uvicorn")
    }


@pytest.mark.parametrize("name", tidewire.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(tidewire, name) is not None
    assert name in dir(tidewire)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Subscriber'"):
        tidewire.Subscriber  # type: ignore[attr-defined]  # noqa: B018


def test_the_import_alone_loads_nothing() -> None:
    assert loaded("tidewire.__version__") == {"tidewire"}


def test_a_client_loads_no_server() -> None:
    found = loaded("tidewire.subscribe")
    assert "httpx" in found
    assert found.isdisjoint({"starlette", "uvicorn", "tidewire.delivery"})


def test_an_app_loads_no_client() -> None:
    found = loaded("tidewire.create_app")
    assert "starlette" in found
    assert found.isdisjoint({"httpx", "tidewire.client"})
