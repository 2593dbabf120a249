"""`scripts/cloud`: your deployment, on this machine, from what is built and with nothing configured by hand."""

import argparse
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from scripts import bundle as builder
from scripts import netlify_build
from tests.deployed.cloud.cloud import Cloud
from tests.repository.deploy.packaging import lay_out, run_osls
from tests.support.processes import HOST, RedisServer

STAGE = "prod"
PORT = 8443


def main(arguments: Sequence[str]) -> int:
    """Build, deploy, print the addresses, and serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="scripts/cloud", description=__doc__)
    parser.add_argument("--port", type=int, default=PORT, help="of the site; streams are on the next one")
    port = parser.parse_args(arguments).port
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidewire-build-")))
        cloud, key = build(folder, port, stack)
        tell(cloud, f"https://{HOST}:{port}", f"https://{HOST}:{port + 1}", key)
        over.wait()
        print("Stopping ...", flush=True)
    return 0


def build(folder: Path, port: int, stack: ExitStack) -> tuple[Cloud, str]:
    """Build what docs/deploy.md builds, and deploy it as it does; return the cloud and the publish key."""
    site, stream_host = f"https://{HOST}:{port}", f"{HOST}:{port + 1}"
    print("Building the bundle for this machine ...", flush=True)
    builder.fill(folder / "task", "local", builder.LOCAL_PYTHON)
    builder.compile_modules(folder / "task", builder.LOCAL_PYTHON)
    print("Packaging the template ...", flush=True)
    (folder / "project").mkdir()
    template = run_osls(lay_out(folder / "project"), "--stage", STAGE, "--param", f"origins={site}")
    (folder / "redis").mkdir()
    redis = RedisServer(folder / "redis")
    stack.callback(redis.stop)
    redis.start()
    cloud = stack.enter_context(Cloud(folder / "task", (port, port + 1)))
    key = secrets.token_hex(32)
    for name, value in {"redis-url": redis.url, "publish-keys": key, "jwt-secret": secrets.token_hex(32)}.items():
        cloud.put_parameter(f"/tidewire/{STAGE}/{name}", value)
    deployed = cloud.deploy(STAGE, template, stream_host)
    print("Building the site ...", flush=True)
    netlify_build.main({"TIDEWIRE_API_URL": deployed.api_url}, folder / "site")
    cloud.publish_site(folder / "site", {}, site)
    return cloud, key


def tell(cloud: Cloud, site: str, stream: str, key: str) -> None:
    """Print the addresses, and the commands to try."""
    print(
        f"""
Your deployment, on this machine. Everything passes through the template's own routes.

  the site          {site}/
  its streams       {stream}/api/events (Firefox: open it once, and accept the certificate here too)
  the publish key   {key}
  the certificate   {cloud.certificate}
  the functions' logs in {cloud.folder}

  KEY={key}
  curl --cacert {cloud.certificate} {site}/api/tokens -H "Authorization: Bearer $KEY" \\
       -H 'Content-Type: application/json' -d '{{"userId": "u1"}}'
  curl --cacert {cloud.certificate} {site}/api/publish -H "Authorization: Bearer $KEY" \\
       -H 'Content-Type: application/json' -d '{{"type": "task-updated", "data": {{"id": 7}}, "userIds": ["u1"]}}'

Open the site, paste the token, and publish. Ctrl-C ends it, and everything in it.
""",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
