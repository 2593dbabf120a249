"""The whole cloud: an account at AWS, sites at Netlify, and the network between them."""

import contextlib
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from tests.deployed.cloud import account
from tests.deployed.cloud.bus import Bus
from tests.deployed.cloud.environment import Platform
from tests.deployed.cloud.front import Front
from tests.deployed.cloud.netlify import Site
from tests.deployed.cloud.stack import Stack
from tests.deployed.cloud.template import REGION
from tests.deployed.cloud.web import Hosts
from tests.support.certificates import certify
from tests.support.processes import HOST, ROOT, START_SECONDS, free_port, wait_until

SITE = "https://app.example.com"
NAMES = ("*.example.com", f"*.execute-api.{REGION}.amazonaws.com", f"*.lambda-url.{REGION}.on.aws", "*.netlify.app")


class Cloud:
    """Deploys stacks and sites, and answers for them until it is closed.

    Clients reach every host by its name through `proxy`, and trust `certificate`. With `ports` they are reached as
    127.0.0.1 on these as well: a site's, and that of its stream.
    """

    def __init__(self, bundle: Path, ports: Sequence[int] = ()) -> None:
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="tidewire-cloud-")))
        self.hosts = Hosts()
        self.stacks: dict[str, Stack] = {}
        self._sites: dict[str, Path] = {}
        self._account_port = free_port()
        self.platform = Platform(self.folder, bundle, f"http://{HOST}:{self._account_port}")
        self.certificate = self.folder / "cloud.pem"
        key = certify(self.certificate, *NAMES, "localhost")
        self._front = Front(self.hosts, self.certificate, key, ports)
        self.proxy = self._front.proxy

    def __enter__(self) -> Self:
        environment = {**os.environ, "AWS_ACCESS_KEY_ID": "of-moto", "AWS_SECRET_ACCESS_KEY": "of-moto"}
        command = [sys.executable, "-m", account.__name__, str(self._account_port)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        self._front.start()
        self._stack.callback(self._front.stop)
        self._stack.callback(self._stop_stacks)  # first of all: then no answer is under way
        wait_until(lambda: process.poll() is not None or self._account_answers(), START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def deploy(self, stage: str, template: Mapping[str, Any], stream_host: str | None = None) -> Stack:
        """Deploy a stack, in the place of the stage's last one. Raises DeploymentError."""
        stack = Stack(template, self.platform, self.hosts, stream_host)
        if stage in self.stacks:
            self.stacks[stage].stop()
        self.stacks[stage] = stack
        # A stack that publishes to the log sends nothing to the bus: its queues need no poller.
        if any(function.variables.get("REALTIME_TRANSPORT") == "eventbridge" for function in stack.functions.values()):
            bus = Bus(stack, self.aws)
            bus.start()
            self._stack.callback(bus.stop)
        return stack

    def remove(self, stage: str) -> None:
        """Remove a stack; its hosts are no more."""
        stack = self.stacks.pop(stage)
        stack.stop()
        for domain in (stack.api_domain, stack.stream_domain):
            self.hosts.apps.pop(domain, None)

    def publish_site(self, folder: Path, variables: Mapping[str, str], url: str = SITE) -> str:
        """Publish a folder that scripts/netlify_build.py has made, and return the site's address."""
        self._sites[url] = folder
        self.hosts.add(url, Site(url, folder, ROOT / "netlify.toml", variables, self.hosts))
        return url

    @contextlib.contextmanager
    def page_headers(self, url: str, headers: Mapping[str, str]) -> Iterator[None]:
        """For as long as it is open, publish the site's files with these headers instead of netlify.toml's."""
        host = urlsplit(url).netloc
        app = self.hosts.apps[host]
        assert isinstance(app, Site)
        self.hosts.apps[host] = app.with_headers(headers)
        try:
            yield
        finally:
            self.hosts.apps[host] = app

    def redirects(self, url: str) -> str:
        """The rules that a site was published with."""
        return (self._sites[url] / "_redirects").read_text()

    def next_message(self, queue: str) -> str:
        """Take the next message out of a queue, once there is one."""
        sqs, found = self.aws("sqs"), list[str]()
        url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]

        def take() -> bool:
            for message in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=1).get("Messages", []):
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                found.append(message["Body"])
            return bool(found)

        wait_until(take, START_SECONDS)
        return found[0]

    def map_domain(self, url: str, stage: str) -> None:
        """Have a custom domain lead to the stage's HTTP API at the URL's path."""
        self.hosts.add(url, self.stacks[stage].mapped_at(urlsplit(url).path))

    def put_parameter(self, name: str, value: str) -> None:
        """Put a parameter of Systems Manager, as `aws ssm put-parameter --overwrite` does."""
        self.aws("ssm").put_parameter(Name=name, Value=value, Type="SecureString", Overwrite=True)

    def delete_parameter(self, name: str) -> None:
        """Delete a parameter."""
        self.aws("ssm").delete_parameter(Name=name)

    def aws(self, service: str) -> Any:
        """A client of the account's APIs."""
        import boto3

        keys = {"aws_access_key_id": "of-its-user", "aws_secret_access_key": "of-its-user"}
        return boto3.client(service, region_name=REGION, endpoint_url=self.platform.aws_url, **keys)

    def client(self, **options: Any) -> httpx.Client:
        """An HTTP client somewhere on the internet."""
        trusted = ssl.create_default_context(cafile=self.certificate)
        return httpx.Client(proxy=self.proxy, verify=trusted, timeout=30.0, trust_env=False, **options)

    def _account_answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(self.platform.aws_url, trust_env=False).is_success
        return False

    def _stop_stacks(self) -> None:
        for stack in self.stacks.values():
            stack.stop()
