"""What Lambda's own Python runtime does: a loop around one handler. A program, which the function's process runs.

It runs without site-packages: what the handler imports is in the bundle, or is boto3, which Lambda brings along.
"""

import http.client
import importlib
import json
import os
import sys
import traceback
from typing import Any

API = "/2018-06-01/runtime"


class Context:
    """The context that a handler gets with its invocation."""

    def __init__(self, headers: http.client.HTTPMessage) -> None:
        self.aws_request_id = headers["Lambda-Runtime-Aws-Request-Id"]
        self.invoked_function_arn = headers["Lambda-Runtime-Invoked-Function-Arn"]
        self.function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]


def main() -> None:
    """Answer one invocation after the other, until the process is killed."""
    sys.path[0] = os.environ["LAMBDA_TASK_ROOT"]  # in the place of this file's folder
    module, _, name = os.environ["_HANDLER"].rpartition(".")
    handler = getattr(importlib.import_module(module.replace("/", ".")), name)
    while True:
        answer_one(handler)


def answer_one(handler: Any) -> None:
    """Take an invocation, and answer it with what the handler returns, or with how it failed."""
    runtime = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    runtime.request("GET", f"{API}/invocation/next")
    got = runtime.getresponse()
    event, context = json.loads(got.read()), Context(got.headers)
    try:
        outcome, answer = "response", handler(event, context)
    except Exception as error:  # noqa: BLE001 — as the runtime does: the next invocation finds the process alive
        traceback.print_exc()
        outcome, answer = "error", {"errorType": type(error).__name__, "errorMessage": str(error)}
    body = json.dumps(answer).encode()
    runtime.request("POST", f"{API}/invocation/{context.aws_request_id}/{outcome}", body)
    runtime.getresponse().read()
    runtime.close()


if __name__ == "__main__":
    main()
