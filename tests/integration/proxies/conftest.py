"""nginx with the configuration of examples/, in front of a Tidewire, with a certificate that a test can check."""

import os
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support import servers
from tests.support.certificates import certify
from tests.support.processes import HOST, ROOT, Instance, ServerProcess, StartInstance, inherited

CONFIG = ROOT / "examples" / "nginx.conf"


class Nginx(ServerProcess):
    """nginx as the example configures it, but for its ports, its paths and its rights."""

    def __init__(self, folder: Path, upstream: int) -> None:
        super().__init__(folder)
        self.certificate = folder / "tls.pem"
        key = certify(self.certificate)
        config = CONFIG.read_text()
        user = "user root; " if os.getuid() == 0 else ""  # else its workers may not write into this folder
        for example, here in {
            "127.0.0.1:8787": f"{HOST}:{upstream}",
            "listen 443": f"listen {HOST}:{self.port}",
            "/etc/nginx/tls/realtime.pem": str(self.certificate),
            "/etc/nginx/tls/realtime.key": str(key),
            "worker_processes auto;": f"{user}worker_processes 1; daemon off; pid nginx.pid; error_log stderr;",
            "worker_rlimit_nofile 65536;": "",
            "worker_connections 16384;": "worker_connections 512;",
            "http {": "http { access_log off; " + "".join(f"{name}_temp_path {name}; " for name in TEMPORARY),
        }.items():
            assert example in config, example
            config = config.replace(example, here)
        (folder / "nginx.conf").write_text(config)

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    def command(self) -> Sequence[str]:
        return [str(servers.find("nginx")), "-p", str(self.folder), "-c", "nginx.conf", "-e", "stderr"]

    def environment(self) -> Mapping[str, str]:
        return inherited()

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/api/health/live", verify=self.trusted()).status_code == 200
        except httpx.HTTPError:
            return False

    def trusted(self) -> ssl.SSLContext:
        """What a client checks the certificate with."""
        return ssl.create_default_context(cafile=str(self.certificate))


TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@pytest.fixture(scope="session")
def instance(start_instance: StartInstance) -> Instance:
    """A Tidewire whose heartbeats do not push out what a proxy holds back."""
    return start_instance({"REALTIME_HEARTBEAT": "60s"})


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory, instance: Instance) -> Iterator[Nginx]:
    """The example's nginx in front of it."""
    nginx = Nginx(tmp_path_factory.mktemp("nginx"), instance.port)
    with ExitStack() as stack:
        stack.callback(nginx.stop)
        yield nginx.start()


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def connect(request: pytest.FixtureRequest, nginx: Nginx) -> Callable[[], httpx.Client]:
    """Makes a client of nginx, by each of these protocols."""

    def connect() -> httpx.Client:
        is_2 = request.param == "HTTP/2"
        return httpx.Client(base_url=nginx.url, verify=nginx.trusted(), http1=not is_2, http2=is_2, timeout=10.0)

    return connect


@pytest.fixture
def client(request: pytest.FixtureRequest, connect: Callable[[], httpx.Client]) -> Iterator[httpx.Client]:
    """Such a client."""
    with connect() as client:
        assert client.get("/api/health/live").http_version in request.node.name
        yield client
