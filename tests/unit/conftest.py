"""`unit` starts no server and reaches none: a test that needs one belongs in tests/integration."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

# asyncio's own socketpair binds nothing, so event loops work.
FORBIDDEN: list[tuple[object, str]] = [
    *((socket.socket, name) for name in ("bind", "listen", "connect", "connect_ex")),
    (subprocess.Popen, "__init__"),
    *((os, name) for name in ("fork", "posix_spawn", "system")),
]


@pytest.fixture(autouse=True)
def no_servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that starts a process or uses a socket's address, even if it catches the exception."""
    used: list[str] = []
    for owner, name in FORBIDDEN:
        monkeypatch.setattr(owner, name, _forbidden(f"{getattr(owner, '__name__', owner)}.{name}", used))
    yield
    assert used == [], "a unit test starts no process and no server: move it to tests/integration"


def _forbidden(name: str, used: list[str]) -> Callable[..., NoReturn]:
    def refuse(*arguments: Any, **options: Any) -> NoReturn:
        used.append(name)
        pytest.fail(f"a unit test called {name}: move it to tests/integration")

    return refuse
