"""`scripts/netlify dev` between a browser and the functions: it delays, loses and keeps open nothing."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.processes import HOST, LOG_CHARACTERS, ROOT, ServerError, free_port, inherited, wait_until
from tests.support.sse_decoder import SseDecoder, SseEvent

# One netlify dev for all of them: it takes half a gigabyte, and 5 s to start, or 40 on a busy machine.
pytestmark = [pytest.mark.xdist_group("netlify"), pytest.mark.timeout(180)]

START_SECONDS = 90.0
STOP_SECONDS = 30.0  # it takes 2
# Less than the 15 s between two heartbeats: these would push out held-back bytes, and detect clients that have left.
DEADLINE = 10.0

CONFIG = ROOT / "netlify.toml"
LINKED = (".netlify-cli", ".venv", "functions", "requirements*.txt", "scripts", "shared", "site")


class NetlifyDev:
    """`scripts/netlify dev` on free ports, in a copy of the repository, so that it writes nothing into ours."""

    def __init__(self, folder: Path, secret: str | None = None) -> None:
        self._folder = folder
        self._log_file = folder / "netlify-dev.log"
        self._functions, self._front = free_port(), free_port()
        self.url = f"http://{HOST}:{self._front}"
        self.functions_url = f"http://{HOST}:{self._functions}"
        link_repository(folder)
        config = CONFIG.read_text().replace("8787", str(self._functions)).replace("8888", str(self._front))
        static = f"[dev]\n  staticServerPort = {free_port()}"  # otherwise all instances on this machine share one
        config = config.replace("[dev]", static)
        if secret is not None:
            config = config.replace("[[redirects]]", '[[redirects]]\n  signed = "REALTIME_NETLIFY_SECRET"')
            (folder / ".env").write_text(f"REALTIME_NETLIFY_SECRET={secret}\n")
        (folder / CONFIG.name).write_text(config)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it within the block; raises ServerError if it does not start, or leaves a process at its end."""
        with self._log_file.open("wb") as log:
            process = subprocess.Popen(
                [self._folder / "scripts" / "netlify", "dev"],
                env={**inherited(), "PORT": str(self._functions), "XDG_CONFIG_HOME": str(self._folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait(lambda: process.poll() is not None or self._is_live(), START_SECONDS, "not ready")
            assert process.poll() is None, f"it ended at its start\n{self._log()}"
            yield
            process.terminate()  # this process only: it must stop the functions
            self._wait(lambda: process.poll() is not None and not self._listens(), STOP_SECONDS, "still running")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _wait(self, condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
        try:
            wait_until(condition, seconds)
        except TimeoutError:
            raise ServerError(f"{otherwise} after {seconds:g} s\n{self._log()}") from None

    def _is_live(self) -> bool:
        if not self._listens():
            return False
        try:
            return httpx.get(f"{self.url}/api/health/live").status_code == 200
        except httpx.HTTPError:
            return False

    def _listens(self) -> bool:
        """Whether the functions still take connections, whatever is in front of them."""
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self._functions)) == 0

    def _log(self) -> str:
        return self._log_file.read_text(errors="replace")[-LOG_CHARACTERS:]


def link_repository(folder: Path) -> None:
    """Link the files of the repository that the command line needs into `folder`."""
    for path in (path for pattern in LINKED for path in ROOT.glob(pattern)):
        (folder / path.name).symlink_to(path)


class Stream:
    """One open stream through the proxy; `cursor` is that of the last event that was taken."""

    def __init__(self, response: httpx.Response, cursor: str) -> None:
        self.cursor = cursor
        decoder = SseDecoder(cursor)
        self._events = (event for chunk in response.iter_bytes() for event in decoder.feed(chunk))

    def take(self) -> SseEvent:
        """The next event, as soon as it arrives."""
        event = next(self._events)
        self.cursor = event.last_event_id
        return event

    def take_number(self) -> int:
        """The next event, which must be a published one: what `publish` put into it."""
        return _number(self.take())

    def take_replayed(self) -> list[int]:
        """The events published after the cursor, without a gap; then the stream is live."""
        numbers = []
        while (event := self.take()).type != "realtime.ready":
            numbers.append(_number(event))
        assert json.loads(event.data) == {"recovered": True, "replayed": len(numbers)}
        return numbers


def _number(event: SseEvent) -> int:
    assert event.type == "counted", event
    return int(event.data)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a netlify dev, which must stop without a trace after the last test."""
    netlify_dev = NetlifyDev(tmp_path_factory.mktemp("netlify"))
    with netlify_dev.running(), httpx.Client(base_url=netlify_dev.url, timeout=DEADLINE) as client:
        yield client


def publish(client: httpx.Client, number: int) -> None:
    response = client.post("/api/publish", json={"type": "counted", "data": number})
    assert response.status_code == 202, response.text


@contextmanager
def follow(client: httpx.Client, cursor: str = "") -> Iterator[Stream]:
    """A stream from this cursor, taken with gzip as browsers do; what leaves the block drops the connection."""
    headers = {"accept": "text/event-stream", "accept-encoding": "gzip"}
    if cursor:
        headers["last-event-id"] = cursor
    with client.stream("GET", "/api/events", headers=headers) as response:
        assert response.status_code == 200
        yield Stream(response, cursor)


def subscribers(client: httpx.Client) -> float:
    counts = re.findall(r"^realtime_subscribers\{.*\} (\S+)$", client.get("/api/metrics").text, re.MULTILINE)
    assert counts
    return sum(map(float, counts))


def test_page_and_assets_have_the_headers_of_netlify_toml(client: httpx.Client) -> None:
    [rule] = tomllib.loads(CONFIG.read_text())["headers"]
    page = client.get("/")
    assets = re.findall(r'<(?:link|script)[^>]* (?:href|src)="([^"]+)"', page.text)
    assert len(assets) >= 3
    for response in (page, *(client.get(f"/{asset}") for asset in assets)):
        assert response.status_code == 200, response.url
        assert response.content
        assert {name: response.headers.get(name) for name in rule["values"]} == rule["values"]


def test_the_page_may_open_a_stream_at_another_address(client: httpx.Client) -> None:
    """Deployed, the functions have one of their own; the policy of the header and that of the page both count."""
    page = client.get("/")
    [in_page] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page.text)
    for policy in (page.headers["content-security-policy"], in_page):
        assert "connect-src 'self' https:" in [directive.strip() for directive in policy.split(";")]


def test_an_error_of_the_functions_is_passed_on(client: httpx.Client) -> None:
    response = client.post("/api/publish", json={"type": "realtime.forged", "data": 1})
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"
    assert client.get("/api/nothing").json()["status"] == 404


def test_an_event_is_not_held_back_until_more_follows(client: httpx.Client) -> None:
    with follow(client) as stream:
        assert stream.take_replayed() == []
        for number in range(20):
            publish(client, number)
            assert stream.take_number() == number


def test_a_client_that_drops_and_resumes_gets_everything_once(client: httpx.Client) -> None:
    with follow(client) as stream:
        assert stream.take_replayed() == []
    seen: list[int] = []
    cursor = stream.cursor
    for number in range(0, 30, 3):
        publish(client, number)  # without a subscriber
        with follow(client, cursor) as stream:
            seen += stream.take_replayed()
            publish(client, number + 1)
            publish(client, number + 2)
            seen.append(stream.take_number())  # and the other one is lost on its way
        cursor = stream.cursor
    with follow(client, cursor) as stream:
        seen += stream.take_replayed()
    assert seen == list(range(30))


def test_a_client_that_leaves_is_unsubscribed_at_once(client: httpx.Client) -> None:
    wait_until(lambda: subscribers(client) == 0, DEADLINE)
    with follow(client) as stream:
        assert stream.take_replayed() == []
        assert subscribers(client) == 1
    wait_until(lambda: subscribers(client) == 0, DEADLINE)


def test_only_signed_rewrites_are_accepted(tmp_path: Path) -> None:
    netlify_dev = NetlifyDev(tmp_path, secret="the secret that netlify dev signs its rewrites with")
    with netlify_dev.running(), httpx.Client(timeout=DEADLINE) as client:
        event = {"type": "signed", "data": 1}
        assert client.post(f"{netlify_dev.url}/api/publish", json=event).status_code == 202
        assert client.post(f"{netlify_dev.functions_url}/api/publish", json=event).status_code == 403


SIGNED = {"TIDEWIRE_API_URL": "https://api.example.com", "REALTIME_NETLIFY_SECRET": "a secret of the build's"}
PREVIEW = {"CONTEXT": "deploy-preview", "TIDEWIRE_API_URL": "https://api.example.com"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (SIGNED, {"to": "https://api.example.com/api/:splat", "status": 200, "signed": "REALTIME_NETLIFY_SECRET"}),
        (PREVIEW, {"to": "/no-functions.txt", "status": 404}),
    ],
    ids=["production", "preview"],
)
def test_netlify_build_reads_our_rewrites_as_we_mean_them(
    tmp_path: Path, settings: dict[str, str], expected: dict[str, object]
) -> None:
    link_repository(tmp_path)
    (tmp_path / CONFIG.name).write_text(CONFIG.read_text())
    done = subprocess.run(
        [tmp_path / "scripts" / "netlify", "build", "--offline", "--context", settings.get("CONTEXT", "production")],
        cwd=tmp_path,
        env={**inherited(), **settings, "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "build" / "site" / "index.html").read_text() == (ROOT / "site" / "index.html").read_text()
    [rule, _local] = tomllib.loads((tmp_path / ".netlify" / "netlify.toml").read_text())["redirects"]
    assert {**expected, "from": "/api/*", "force": True}.items() <= rule.items()
