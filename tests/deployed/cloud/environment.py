"""Functions as Lambda runs them: from the bundle's folder, each execution environment with one invocation at a time."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.deployed.cloud import runtime
from tests.deployed.cloud.template import ACCOUNT, REGION
from tests.integration.lambda_runtime.adapter import ADAPTERS, adapter
from tests.integration.lambda_runtime.runtime_api import Invocation, RuntimeApi
from tests.support.processes import HOST, free_port

QUOTA = 10  # concurrent executions that a new account may have (Lambda quotas)
START_SECONDS = 10.0  # Lambda's own bound for the initialisation, and here for a machine that others use too
ADAPTER_PORT = "8080"  # of the adapter, where AWS_LWA_PORT is not set
APP_PORT = "8787"  # of our process, where PORT is not set
BROUGHT_BY_LAMBDA = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six")


class InvocationError(Exception):
    """Lambda did not run the function; `status` is that of Lambda's Invoke API."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(what)
        self.status = status


@dataclass(frozen=True)
class Platform:
    """What Lambda adds to a function: a folder for temporary files, the bundle, and the address of AWS's APIs."""

    folder: Path
    bundle: Path
    aws_url: str

    def interpreter(self) -> Path:
        """A Python without site-packages, but for boto3; made once."""
        made = self.folder / "python"
        if not made.exists():
            (made / "bin").mkdir(parents=True)
            (made / "lib").mkdir()
            for name in BROUGHT_BY_LAMBDA:
                spec = find_spec(name)
                assert spec is not None, name
                assert spec.origin is not None, name
                source = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
                (made / "lib" / source.name).symlink_to(source)
            program = made / "bin" / "python3"
            base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
            program.write_text(f'#!/bin/sh\nexec "{base}" -S "$@"\n')
            program.chmod(0o755)
        return made

    def variables(self) -> dict[str, str]:
        """What Lambda puts into every environment."""
        python = self.interpreter()
        return {
            "PATH": f"{python / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(python / "lib"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "LAMBDA_TASK_ROOT": str(self.bundle),
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "of-the-role",
            "AWS_SECRET_ACCESS_KEY": "of-the-role",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": self.aws_url,
        }


class Function:
    """One function of the template, with its environments; idle ones are frozen."""

    def __init__(self, platform: Platform, properties: Mapping[str, Any]) -> None:
        self.name = str(properties["FunctionName"])
        self.arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.name}"
        self.handler = str(properties["Handler"])
        self.timeout = float(properties["Timeout"])
        self.memory = int(properties["MemorySize"])
        self.reserved: int | None = properties.get("ReservedConcurrentExecutions")
        self.variables: dict[str, str] = {
            name: str(value) for name, value in properties["Environment"]["Variables"].items()
        }
        self.has_adapter = any("LambdaAdapterLayer" in layer for layer in properties.get("Layers", ()))
        self.environments: list[Environment] = []
        self._platform = platform
        self._taking = threading.Lock()

    def invoke(self, event: Mapping[str, Any]) -> Invocation:
        """Hand the event to an environment that is idle, or to a new one. Blocks; raises InvocationError."""
        with self._taking:
            environment = next((one for one in self.environments if one.take()), None)
            if environment is None:
                if self.reserved is not None and len(self.busy()) >= self.reserved:
                    raise InvocationError(429, "Rate Exceeded")
                environment = Environment(self._platform, self, len(self.environments))
                self.environments.append(environment)
        return environment.invoke(dict(event), self.timeout)

    def busy(self) -> "list[Environment]":
        """The environments that answer an invocation now."""
        return [one for one in self.environments if one.is_busy]

    def stop(self) -> None:
        """End all environments."""
        for environment in self.environments:
            environment.stop()


class Environment:
    """One process with its Runtime API; made busy, for the invocation that it was started for."""

    def __init__(self, platform: Platform, function: Function, number: int) -> None:
        self.log_file = platform.folder / f"{function.name}-{number}.log"
        self.is_busy = True
        self.current: Invocation | None = None
        self._stack = ExitStack()
        self._changing = threading.Lock()
        api = self._stack.enter_context(RuntimeApi())
        self._api = api
        variables = {
            **function.variables,
            **platform.variables(),
            "_HANDLER": function.handler,
            "AWS_LAMBDA_RUNTIME_API": api.address,
            "AWS_LAMBDA_FUNCTION_NAME": function.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
        }
        wrapped = function.has_adapter and variables.get("AWS_LAMBDA_EXEC_WRAPPER") == "/opt/bootstrap"
        command = [str(platform.bundle / function.handler)]
        if not wrapped:
            command = [str(platform.interpreter() / "bin" / "python3"), runtime.__file__]
        # All environments share this machine's ports: each number in the variables stands for a free one of its own.
        ports = {number: free_port() for number in {variables.get("PORT", APP_PORT)} | {lwa_port(variables)}}
        variables["PORT"] = str(ports[variables.get("PORT", APP_PORT)])
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=platform.bundle,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        threading.Thread(target=self._watch, daemon=True).start()
        if wrapped:
            self._wait_for_the_app(ports[lwa_port(variables)])
            self._stack.enter_context(adapter(ADAPTERS[-1], api, ports[lwa_port(variables)], variables))

    def take(self) -> bool:
        """Thaw it for an invocation, if it is idle and alive."""
        with self._changing:
            if self.is_busy or self.process.poll() is not None:
                return False
            self.is_busy = True
            self._signal(signal.SIGCONT)
            return True

    def invoke(self, event: dict[str, Any], seconds: float) -> Invocation:
        """Run one invocation; when its answer has ended the environment is frozen."""
        invocation = self._api.invoke(event, seconds)
        self.current = invocation
        invocation.when_ended = lambda: self._freeze(invocation)
        timer = threading.Timer(seconds, self._time_is_up, [invocation])
        timer.daemon = True
        timer.start()
        if self.process.poll() is not None:
            invocation.end(failed=True)
        return invocation

    def kill(self) -> None:
        """End it as a crash does: its response breaks off."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End it, and its Runtime API."""
        self.kill()
        self._stack.close()

    def log(self) -> str:
        """Its output."""
        return self.log_file.read_text(errors="replace")

    def _freeze(self, invocation: Invocation) -> None:
        with self._changing:
            if self.current is invocation:
                self.current = None
                self.is_busy = False
                self._signal(signal.SIGSTOP)

    def _time_is_up(self, invocation: Invocation) -> None:
        if self.current is invocation:
            self.kill()  # Lambda resets the environment; the next invocation finds another one

    def _watch(self) -> None:
        self.process.wait()
        if self.current is not None:
            self.current.end(failed=True)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _wait_for_the_app(self, port: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            connection = http.client.HTTPConnection(HOST, port, timeout=1.0)
            with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
                connection.request("GET", "/")
                connection.getresponse().read()
                return
            time.sleep(0.02)  # before the next try
        self.kill()
        raise InvocationError(502, f"nothing listens on the adapter's port\n{self.log()}")


def lwa_port(variables: Mapping[str, str]) -> str:
    """The port on which the adapter reaches the process."""
    return variables.get("AWS_LWA_PORT", ADAPTER_PORT)
