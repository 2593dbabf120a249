"""An SQS queue for events that can never be appended, each with the reason."""

import json
import logging
from typing import Any

from tidewire.errors import Unavailable
from tidewire.primitives import aws_clients

logger = logging.getLogger(__name__)

MAX_REASON = 1_000  # characters


class DeadLetters:
    """The dead-letter queue; `put` blocks."""

    def __init__(self, url: str, region: str | None = None) -> None:
        self._url = url
        self._region = region
        self._client: Any = None

    def put(self, payload: object, code: str, reason: str) -> None:
        """Send the payload to the queue unchanged. Raises Unavailable if the queue does not accept it.

        The attributes have the names that EventBridge gives its own dead letters.
        """
        if self._client is None:
            self._client = aws_clients.client("sqs", self._region)
        try:
            self._client.send_message(
                QueueUrl=self._url,
                MessageBody=json.dumps(payload),  # escaped to ASCII: SQS refuses some characters
                MessageAttributes={
                    "ERROR_CODE": {"DataType": "String", "StringValue": code},
                    "ERROR_MESSAGE": {"DataType": "String", "StringValue": reason[:MAX_REASON]},
                },
            )
        except aws_clients.failures() as error:
            raise Unavailable(f"The dead-letter queue cannot be used now ({aws_clients.code(error)})") from error
        logger.error("an event went to the dead-letter queue: %s", code)
