"""The Lambda Web Adapter, in a thread: turns invocations into requests to the app, and streams the responses.

Compared with the real one: if TIDEWIRE_LAMBDA_ADAPTER names its program, every test runs with both. docs/lambda.md says
how to build it.
"""

import base64
import contextlib
import http.client
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from tests.integration.lambda_runtime.runtime_api import PRELUDE_END, RuntimeApi
from tests.support.processes import HOST, inherited

REAL = os.environ.get("TIDEWIRE_LAMBDA_ADAPTER")
ADAPTERS = ["stand-in", "real"] if REAL else ["stand-in"]


STREAMING = {"AWS_LWA_INVOKE_MODE": "response_stream", "AWS_LWA_READINESS_CHECK_PATH": "/api/health/live"}


@contextmanager
def adapter(kind: str, api: RuntimeApi, port: int, variables: Mapping[str, str] = STREAMING) -> Iterator[None]:
    """One execution environment's adapter, in front of the app that listens on this port.

    `variables` are the function's; of them the adapter reads AWS_LWA_INVOKE_MODE, which is "buffered" by default.
    """
    if kind == "stand-in":
        streams = variables.get("AWS_LWA_INVOKE_MODE", "buffered").lower() == "response_stream"
        threading.Thread(target=_serve, args=(api.address, port, streams), daemon=True).start()
        yield
        return
    assert REAL is not None
    settings = {
        **{name: value for name, value in variables.items() if name.startswith("AWS_LWA_")},
        "AWS_LAMBDA_RUNTIME_API": api.address,
        "AWS_LWA_PORT": str(port),
        "AWS_LAMBDA_FUNCTION_NAME": "tidewire-stream",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_LOG_STREAM_NAME": "s",
        "AWS_LAMBDA_LOG_GROUP_NAME": "g",
        "RUST_LOG": "warn",
    }
    process = subprocess.Popen([REAL], env={**inherited(), **settings})
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _serve(address: str, port: int, streams: bool) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):  # the test is over
        while True:
            with (
                closing(http.client.HTTPConnection(address)) as runtime,
                closing(http.client.HTTPConnection(HOST, port)) as app,
            ):
                runtime.request("GET", "/2018-06-01/runtime/invocation/next")
                got = runtime.getresponse()
                event = json.loads(got.read())
                with closing(_ask(app, event, got.headers)) as answer:
                    send = _answer if streams else _answer_whole
                    send(runtime, got.headers["Lambda-Runtime-Aws-Request-Id"], answer)


def _ask(app: http.client.HTTPConnection, event: dict[str, Any], given: Any) -> http.client.HTTPResponse:
    path = event["rawPath"] + ("?" + event["rawQueryString"] if event["rawQueryString"] else "")
    context = {
        "request_id": given["Lambda-Runtime-Aws-Request-Id"],
        "deadline": int(given["Lambda-Runtime-Deadline-Ms"]),
        "invoked_function_arn": given["Lambda-Runtime-Invoked-Function-Arn"],
    }
    headers = {**event["headers"], "x-amzn-lambda-context": json.dumps(context)}
    if event.get("cookies"):
        headers["cookie"] = "; ".join(event["cookies"])
    app.request(event["requestContext"]["http"]["method"], path, headers=headers)
    return app.getresponse()


def _answer(runtime: http.client.HTTPConnection, id: str, answer: http.client.HTTPResponse) -> None:
    runtime.putrequest("POST", f"/2018-06-01/runtime/invocation/{id}/response")
    runtime.putheader("Lambda-Runtime-Function-Response-Mode", "streaming")
    runtime.putheader("Content-Type", "application/vnd.awslambda.http-integration-response")
    runtime.putheader("Transfer-Encoding", "chunked")
    runtime.endheaders()
    headers = {name.lower(): value for name, value in answer.getheaders() if name.lower() != "transfer-encoding"}
    _send(runtime, json.dumps({"statusCode": answer.status, "headers": headers, "cookies": []}).encode())
    _send(runtime, PRELUDE_END)
    while chunk := answer.read1():
        _send(runtime, chunk)
    runtime.send(b"0\r\n\r\n")
    runtime.getresponse().read()


def _answer_whole(runtime: http.client.HTTPConnection, id: str, answer: http.client.HTTPResponse) -> None:
    headers = {name.lower(): value for name, value in answer.getheaders()}
    body = base64.b64encode(answer.read()).decode()
    whole = {"statusCode": answer.status, "headers": headers, "body": body, "isBase64Encoded": True}
    runtime.request("POST", f"/2018-06-01/runtime/invocation/{id}/response", json.dumps(whole))
    runtime.getresponse().read()


def _send(runtime: http.client.HTTPConnection, chunk: bytes) -> None:
    runtime.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
