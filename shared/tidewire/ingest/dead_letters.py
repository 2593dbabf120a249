"""Events that can never be appended, kept in an SQS queue with the reason, for somebody to look at."""

import json
import logging
from typing import Any

from tidewire.errors import Unavailable
from tidewire.primitives import aws_clients

logger = logging.getLogger(__name__)

MAX_REASON = 1_000  # characters


class DeadLetters:
    """The queue; `put` blocks."""

    def __init__(self, url: str, region: str | None = None) -> None:
        self._url = url
        self._region = region
        self._client: Any = None

    def put(self, payload: object, code: str, reason: str) -> None:
        """Keep the payload as it came; raises Unavailable where the queue does not take it.

        The attributes are named as EventBridge names its own, so that one look at the queue tells what lies there.
        """
        if self._client is None:
            self._client = aws_clients.client("sqs", self._region)
        try:
            self._client.send_message(
                QueueUrl=self._url,
                MessageBody=json.dumps(payload),  # ASCII: SQS refuses some characters, and JSON can escape all of them
                MessageAttributes={
                    "ERROR_CODE": {"DataType": "String", "StringValue": code},
                    "ERROR_MESSAGE": {"DataType": "String", "StringValue": reason[:MAX_REASON]},
                },
            )
        except aws_clients.failures() as error:
            raise Unavailable(f"The dead-letter queue cannot be used now ({aws_clients.code(error)})") from error
        logger.error("an event went to the dead-letter queue: %s", code)
