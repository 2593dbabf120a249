"""EventBridge and SQS as a template has them: rules that invoke functions, queues that do, and dead letters.

The bus and the queues are moto's. It invokes no function, so a rule leads to a queue here, from which this takes each
event as the target would be handed it.
"""

import contextlib
import json
import threading
from typing import Any

from tests.deployed.cloud.environment import Function, InvocationError
from tests.deployed.cloud.stack import Stack
from tests.deployed.cloud.template import REGION

LOOK_SECONDS = 0.2  # between two looks at the queues


class Bus:
    """Delivers what comes to a stack's bus and queues, from `start` to `stop`."""

    def __init__(self, stack: Stack, aws: Any) -> None:
        self._stack = stack
        self._sqs, self._events = aws("sqs"), aws("events")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._rules: list[tuple[str, Function]] = []
        self._mappings: list[tuple[str, Function]] = []
        self._retries: dict[str, tuple[int, str | None]] = {}

    def start(self) -> None:
        """Make the buses, the queues and the rules, and begin to deliver."""
        template = self._stack.template
        for _, properties in template.of_type("AWS::SQS::Queue"):
            self._sqs.create_queue(QueueName=properties["QueueName"])
        for _, properties in template.of_type("AWS::Events::EventBus"):
            self._events.create_event_bus(Name=properties["Name"])
        for name, properties in template.of_type("AWS::Events::Rule"):
            self._make_rule(name, properties)
        for _, properties in template.of_type("AWS::Lambda::EventSourceMapping"):
            queue = properties["EventSourceArn"].rpartition(":")[2]
            self._mappings.append((self._url(queue), self._stack.function_of(properties["FunctionName"])))
        for _, properties in template.of_type("AWS::Lambda::EventInvokeConfig"):
            target = properties.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
            self._retries[properties["FunctionName"]] = (properties["MaximumRetryAttempts"], target)
        self._thread.start()

    def stop(self) -> None:
        """Deliver nothing more."""
        self._over.set()
        self._thread.join()

    def _make_rule(self, name: str, properties: dict[str, Any]) -> None:
        bus, [target] = properties["EventBusName"], properties["Targets"]
        queue = f"{self._stack.id}-{name}"
        url = self._sqs.create_queue(QueueName=queue)["QueueUrl"]
        pattern = json.dumps(properties["EventPattern"])
        self._events.put_rule(Name=name, EventBusName=bus, EventPattern=pattern)
        arn = f"arn:aws:sqs:{REGION}:123456789012:{queue}"
        self._events.put_targets(Rule=name, EventBusName=bus, Targets=[{"Id": "target", "Arn": arn}])
        function = self._stack.function_of(target["Arn"])
        if self._stack.invites(function, "events.amazonaws.com"):
            self._rules.append((url, function))

    def _url(self, queue: str) -> str:
        return str(self._sqs.get_queue_url(QueueName=queue)["QueueUrl"])

    def _run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            for url, function in self._rules:
                for message in self._take(url):
                    self._invoke(function, json.loads(message["Body"]))
                    self._delete(url, message)
            for url, function in self._mappings:
                self._pass_on(url, function)

    def _take(self, url: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get(
            "Messages", []
        )
        return found

    def _delete(self, url: str, message: dict[str, Any]) -> None:
        self._sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])

    def _invoke(self, function: Function, event: dict[str, Any]) -> None:
        """An asynchronous invocation, retried at once as often as the template says."""
        retries, dead_letters = self._retries.get(function.name, (2, None))
        for _ in range(1 + retries):
            if _answer(function, event) is not None:
                return
        if dead_letters is not None:
            record = {"requestPayload": event, "responsePayload": {}}
            self._sqs.send_message(QueueUrl=self._url(dead_letters.rpartition(":")[2]), MessageBody=json.dumps(record))

    def _pass_on(self, url: str, function: Function) -> None:
        messages = self._take(url)
        if not messages:
            return
        records = [{"messageId": message["MessageId"], "body": message["Body"]} for message in messages]
        answer = _answer(function, {"Records": records})
        if answer is None:
            return
        failed = {item["itemIdentifier"] for item in answer.get("batchItemFailures", [])}
        for message in messages:
            if message["MessageId"] not in failed:
                self._delete(url, message)


def _answer(function: Function, event: dict[str, Any]) -> Any:
    """The function's result, or None if it fails."""
    with contextlib.suppress(InvocationError):
        invocation = function.invoke(event)
        text = b"".join(iter(lambda: invocation.chunks.get() or b"", b""))
        return None if invocation.failed else json.loads(text)
    return None
