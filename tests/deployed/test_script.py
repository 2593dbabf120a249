"""`scripts/cloud` prints the addresses of a deployment, which answers there until it is stopped."""

import os
import re
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.processes import ROOT, inherited, wait_until

pytestmark = [
    pytest.mark.full,  # it builds once more what the other tests here have built
    pytest.mark.xdist_group("deployed"),
    pytest.mark.timeout(180),
]

SECONDS = 120.0  # of a build, on a machine that others use too


def free_ports() -> int:
    """A port with a free one after it."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                other.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def test_a_person_starts_a_cloud_and_stops_it(tmp_path: Path) -> None:
    output, port = tmp_path / "output", free_ports()
    with output.open("wb") as log:
        process = subprocess.Popen(
            [str(ROOT / "scripts" / "cloud"), "--port", str(port)],
            env={**inherited(), "TMPDIR": str(tmp_path)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: "Ctrl-C" in output.read_text() or process.poll() is not None, SECONDS)
        assert process.poll() is None, output.read_text()
        said = output.read_text()
        [key] = re.findall(r"the publish key +(\w+)", said)
        [certificate] = re.findall(r"^  the certificate +(\S+)", said, re.MULTILINE)
        [site] = re.findall(r"the site +(\S+)/", said)
        trusted = ssl.create_default_context(cafile=certificate)
        with httpx.Client(verify=trusted, trust_env=False, timeout=30.0) as http:
            assert "<title>" in http.get(f"{site}/").text
            config = http.get(f"{site}/api/config").json()
            bearer = {"authorization": f"Bearer {key}"}
            token = http.post(f"{site}/api/tokens", json={"userId": "u1"}, headers=bearer).json()["token"]
            subscriber = {"authorization": f"Bearer {token}"}
            with http.stream("GET", config["streamUrl"], headers=subscriber) as stream:
                lines = stream.iter_lines()
                assert "event: realtime.ready" in [next(lines) for _ in range(4)]
                event = {"type": "note", "data": 1, "userIds": ["u1"]}
                assert http.post(f"{site}/api/publish", json=event, headers=bearer).status_code == 202
                assert "event: note" in [next(lines) for _ in range(4)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0, output.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    left = {path.name for path in tmp_path.iterdir()} - {"output", f"tidewire-ports-{os.getuid()}"}
    assert left == set(), "folders that it has made"
    assert "Traceback" not in output.read_text()
