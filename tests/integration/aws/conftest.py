"""AWS in memory: every call goes through a real boto3 client, and moto answers it."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from moto import mock_aws
from moto.moto_api._internal.models import moto_api_backend
from tidewire.primitives import aws_clients

from functions import ops, publish, receive, tokens, webhooks
from tests.support.processes import ROOT

REGION = "eu-central-1"
PAYLOADS = ROOT / "tests" / "payloads"

LoadPayload = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="package")
def moto() -> Iterator[None]:
    """Requests of boto3 go to moto."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_PROFILE", "AWS_REGION"):
            environment.delenv(name, raising=False)
        environment.setenv("AWS_DEFAULT_REGION", REGION)
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with mock_aws():
            yield


@pytest.fixture(autouse=True)
def account(moto: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty account, and functions that have just been deployed there."""
    moto_api_backend.reset()
    for name in ("REALTIME_TRANSPORT", "REALTIME_CONFIG", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    for function in (publish, ops, tokens, webhooks):
        function.handler.close()
    receive.handler.close()
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def payload() -> LoadPayload:
    """Reads `eventbridge/own_event` and the like: written after AWS's documentation."""

    def load(name: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((PAYLOADS / f"{name}.json").read_text())
        return loaded

    return load


class Queue:
    """An SQS queue, and what lies in it."""

    def __init__(self, name: str) -> None:
        self.sqs = aws_clients.client("sqs")
        self.url: str = self.sqs.create_queue(QueueName=name)["QueueUrl"]

    @property
    def arn(self) -> str:
        answer = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])
        return str(answer["Attributes"]["QueueArn"])

    def take(self) -> list[dict[str, Any]]:
        """Take all messages out."""
        taken: list[dict[str, Any]] = []
        while True:
            asked = {"QueueUrl": self.url, "MaxNumberOfMessages": 10, "MessageAttributeNames": ["All"]}
            messages = self.sqs.receive_message(**asked).get("Messages", [])
            if not messages:
                return taken
            for message in messages:
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
            taken += messages

    def bodies(self) -> list[dict[str, Any]]:
        """Take all messages out, as the JSON that they hold."""
        return [json.loads(message["Body"]) for message in self.take()]


@pytest.fixture
def dead_letters() -> Queue:
    """The dead-letter queue."""
    return Queue("dead-letters")


@pytest.fixture
def target() -> Queue:
    """A queue behind a rule for our source on the bus `events`: what a target is handed, as the bus writes it."""
    queue, events = Queue("target"), aws_clients.client("events")
    events.create_event_bus(Name="events")
    events.put_rule(Name="ours", EventBusName="events", EventPattern='{"source": ["tidewire"]}')
    events.put_targets(Rule="ours", EventBusName="events", Targets=[{"Id": "target", "Arn": queue.arn}])
    return queue
