"""`tidewire tail`, from a shell somewhere: it finds the stream that the site cannot carry."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.deployed.conftest import Deployment
from tests.support.processes import ROOT, inherited, wait_until

pytestmark = [pytest.mark.xdist_group("deployed"), pytest.mark.timeout(180)]

SECONDS = 60.0


def test_a_shell_follows_the_stream_by_the_sites_address(deployed: Deployment, tmp_path: Path) -> None:
    """Before, each attempt was refused, for ever: the site gives pages alone."""
    output, errors = tmp_path / "output", tmp_path / "errors"
    settings = {
        "TIDEWIRE_URL": deployed.site,
        "TIDEWIRE_TOKEN": deployed.token("tail"),
        "HTTPS_PROXY": deployed.cloud.proxy,
        "SSL_CERT_FILE": str(deployed.cloud.certificate),
    }
    with output.open("wb") as out, errors.open("wb") as err:
        command = [str(ROOT / "scripts" / "tidewire"), "tail", "--json", "--count", "2"]
        process = subprocess.Popen(command, env={**inherited(), **settings}, stdout=out, stderr=err)
    try:
        wait_until(lambda: "live" in errors.read_text() or process.poll() is not None, SECONDS)
        deployed.publish("note", 1, "tail")
        wait_until(lambda: output.read_text().count("\n") == 1, SECONDS)
        for environment in deployed.stack.function("stream").busy():
            environment.kill()
        deployed.publish("note", 2, "tail")
        assert process.wait(SECONDS) == 0, errors.read_text()
    finally:
        process.kill()
        process.wait()
    assert [json.loads(line)["data"] for line in output.read_text().splitlines()] == [1, 2]
    assert "by pages" not in errors.read_text()
