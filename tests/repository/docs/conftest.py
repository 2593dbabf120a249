"""The servers for the documents' commands, each started for the first block that needs it."""

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.repository.docs.commands import has_server
from tests.repository.docs.kinds import of_kind, shown_after
from tests.repository.docs.markdown import Block
from tests.repository.docs.placeholders import MADE_UP, filled, pattern_of
from tests.repository.docs.shell import Outcome, Shell
from tests.support.postgres_server import PostgresServer
from tests.support.processes import HOST, ROOT, Instance, RedisServer, free_port
from tests.support.tokens import PUBLISH_KEY, SECRET, user_token

GUARDED = {
    "REALTIME_PUBLISH_KEYS": PUBLISH_KEY,
    "REALTIME_JWT_SECRET": SECRET,
    "REALTIME_ALLOWED_ORIGINS": "https://app.example.com",
    "REALTIME_HEARTBEAT": "200ms",  # `tidewire doctor` waits for some
}
SENDS_A_KEY = re.compile(r"Authorization: Bearer|TIDEWIRE_KEY=")


class Documents:
    """Runs blocks: a document's shell first runs all blocks above, and each block once."""

    def __init__(self, request: pytest.FixtureRequest, factory: pytest.TempPathFactory, stack: ExitStack) -> None:
        self._request, self._factory, self._stack = request, factory, stack
        self._instances: dict[str, Instance] = {}
        self._shells: dict[str, Shell] = {}
        self._outcomes: dict[Block, Outcome] = {}

    def run(self, block: Block) -> Outcome:
        """Return the outcome of this block, after all blocks above it in its document."""
        above = [other for other in of_kind("shell", "python") if other.document == block.document]
        for other in [*above, block]:
            if other.line <= block.line and other not in self._outcomes:
                self._outcomes[other] = self._run(other)
        return self._outcomes[block]

    def _run(self, block: Block) -> Outcome:
        if block.document not in self._shells:
            self._shells[block.document] = self._shell()
        port = free_port()
        if has_server(block.text):
            local = f"http://{HOST}:{port}"
        else:
            local = self._instance("guarded" if SENDS_A_KEY.search(block.text) else block.document).url
        addresses = Addresses(self._request, local)
        shown = shown_after(block)
        return self._shells[block.document].run(
            block,
            filled(block, addresses),
            {"TIDEWIRE": local, "URL": local, "PORT": str(port)},
            pattern_of(shown.text) if shown else "",
        )

    def terminate(self) -> None:
        """Send SIGTERM to all servers; the fixture's stack then waits for each."""
        for instance in self._instances.values():
            instance.terminate()

    def settings(self) -> dict[str, str]:
        """Return the default environment of `tidewire`."""
        return {
            "TIDEWIRE_URL": self._instance("guarded").url,
            "TIDEWIRE_KEY": PUBLISH_KEY,
            "REALTIME_JWT_SECRET": SECRET,
            "REALTIME_CONFIG": str(ROOT / "examples" / "webhooks" / "realtime.toml"),
        }

    def _shell(self) -> Shell:
        variables = {
            "PUBLISH_KEY": PUBLISH_KEY,
            "KEY": PUBLISH_KEY,
            "TOKEN": user_token("u1"),
            "REALTIME_NETLIFY_SECRET": MADE_UP,
        }
        shell = Shell(self._factory.mktemp("reader"), variables, self.settings())
        self._stack.callback(shell.close)
        return shell

    def _instance(self, name: str) -> Instance:
        """Return the instance with keys, or a document's own: documents do not see each other's events."""
        if name not in self._instances:
            instance = Instance(self._factory.mktemp("instance"), GUARDED if name == "guarded" else {})
            self._stack.callback(instance.stop)
            self._instances[name] = instance.start()
        return self._instances[name]


class Addresses(dict[str, str]):
    """Addresses of servers by their names in placeholders; an access starts the server."""

    def __init__(self, request: pytest.FixtureRequest, local: str = "http://127.0.0.1:8787") -> None:
        super().__init__(local=local)
        self._request = request

    def __missing__(self, name: str) -> str:
        server = self._request.getfixturevalue(f"{name}_server")
        assert isinstance(server, RedisServer | PostgresServer)
        self[name] = server.url
        return server.url


@pytest.fixture(scope="session")
def reading(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Documents]:
    """A reader who types the documents' commands."""
    with ExitStack() as stack:
        documents = Documents(request, tmp_path_factory, stack)
        yield documents
        documents.terminate()
