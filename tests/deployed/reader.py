"""A reader who types the commands of docs/deploy.md, from the first to the last, in an empty cloud."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.deployed.cloud.cloud import Cloud
from tests.deployed.cloud.stack import Stack
from tests.repository.deploy.conftest import Package
from tests.repository.docs.commands import commands_of, words_of
from tests.repository.docs.markdown import Block
from tests.repository.docs.stand_ins import check
from tests.support.processes import ROOT, inherited

REMEMBERED = re.compile(r"\w+\(\) \{|(export )?\w+=\S*$")  # a function, a variable: those after it need them

AWS = """#!/bin/sh
cd {root} && exec {python} -m tests.deployed.aws_cli "$@"
"""


class Reader:
    """Runs commands; what deploys is done here, since it needs an account, and all else by its own program."""

    def __init__(self, cloud: Cloud, package: Package, folder: Path, known: dict[str, str]) -> None:
        self.cloud = cloud
        self._package = package
        self._known = known
        self._remembered: list[str] = []
        self._environment = {
            **inherited(),
            "PATH": f"{folder}:{inherited()['PATH']}",
            "HTTPS_PROXY": cloud.proxy,
            "SSL_CERT_FILE": str(cloud.certificate),
            "CURL_CA_BUNDLE": str(cloud.certificate),
            "AWS_ACCESS_KEY_ID": "of-its-user",
            "AWS_SECRET_ACCESS_KEY": "of-its-user",
            "AWS_ENDPOINT_URL": cloud.platform.aws_url,
        }
        program = folder / "aws"
        program.write_text(AWS.format(root=ROOT, python=sys.executable))
        program.chmod(0o755)

    def run(self, block: Block) -> str:
        """What the commands of a block print."""
        return "".join(self._run(command) for command in commands_of(self._filled(block.text)) if command.strip())

    def _filled(self, text: str) -> str:
        for shown, value in self._known.items():
            text = text.replace(shown, value)
        return text

    def know(self, shown: str, value: str) -> None:
        """From now on, put this in the place of what the document shows."""
        self._known[shown] = value

    @property
    def stack(self) -> Stack:
        """The stack that the commands have deployed."""
        return self.cloud.stacks["prod"]

    def _run(self, command: str) -> str:
        match words_of(command):
            case ["scripts/package" | "scripts/osls" as program, *arguments]:
                check(program, arguments)
                return "".join(self._deploy([*([] if program == "scripts/osls" else ["package"]), *arguments]))
            case ["aws", "service-quotas" | "sqs", *_]:
                return ""  # no service of this account; tests/repository/docs holds the call to AWS's model
            case _:
                pass
        if assigned := re.fullmatch(r"(\w+)=\$\((.+)\)", command.strip()):  # once, and not for each command again
            command = f"{assigned[1]}={self._shell(assigned[2]).strip()}"
        if REMEMBERED.match(command.strip()):
            self._remembered.append(command)
            return ""
        return self._shell(command)

    def _deploy(self, arguments: list[str]) -> Iterator[str]:
        name, *rest = arguments
        match name:
            case "package":
                self._package(*rest)
            case "deploy":
                self.cloud.deploy("prod", self._package(*rest))
            case "info":
                outputs = self.stack.template.outputs()
                yield f"endpoint: {outputs['HttpApiUrl']}\n  stream: {outputs['StreamLambdaFunctionUrl']}\n"
            case "remove":
                self.cloud.remove("prod")
            case _:
                raise AssertionError(f"osls {name}: nobody here knows what it does")

    def _shell(self, command: str) -> str:
        script = "\n".join(["set -eu", *self._remembered, command])
        ran = subprocess.run(
            ["sh", "-c", script], cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
        return ran.stdout
