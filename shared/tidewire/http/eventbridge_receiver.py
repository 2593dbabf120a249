"""EventBridge → log: the Lambda function that is the target of a rule of the bus.

EventBridge delivers at least once. A repeated event has the same id, its publisher's or the bus's, and is appended
once. An event that can never be appended goes to the dead-letter queue with the reason. For a temporary failure the
handler raises: Lambda retries an asynchronous invocation, and finally passes it to its own dead-letter queue.

The handler also accepts SQS events, which are dead letters in the redrive queue: bus events as they arrived, or
Lambda's records of failed invocations.
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tidewire.delivery.hub import Hub
from tidewire.errors import ContentTooLarge, EventRefused, InvalidRequest, SettingsError, Unavailable
from tidewire.http.lambda_entry import Warm, configure_on_lambda
from tidewire.ingest.dead_letters import DeadLetters
from tidewire.ingest.eventbridge_rules import BusRules
from tidewire.model.event import Event
from tidewire.monitoring.cloudwatch import EmbeddedMetrics
from tidewire.monitoring.logs import log_fields, request_id, requests
from tidewire.protocol import eventbridge_event
from tidewire.settings.config import Settings
from tidewire.transports.base import Receipt
from tidewire.wiring import make_hub

logger = logging.getLogger(__name__)

Payload = Mapping[str, Any]


class Receiver:
    """Appends bus events to the log; `dead_letters` is None without REALTIME_DEAD_LETTER_QUEUE."""

    def __init__(self, hub: Hub, source: str, rules: BusRules, dead_letters: DeadLetters | None) -> None:
        self.hub = hub
        self._source = source
        self._rules = rules
        self._dead_letters = dead_letters

    async def receive(self, payload: Any, id: str, via: str = "bus") -> list[dict[str, Any]]:
        """Append the events of one bus event; return their receipts, or none if no rule matches or it is a dead letter.

        Logs one line with this request id. Raises Unavailable if the log or the dead-letter queue cannot be reached,
        and InvalidRequest if the event can never be appended and there is no dead-letter queue.
        """
        began = time.perf_counter()
        result, receipts = "failed", list[Receipt]()
        try:
            result, receipts = await self._receive(payload)
        except Unavailable:
            result = "again"
            raise
        finally:
            duplicates = sum(receipt.duplicate for receipt in receipts)
            fields = {"request_id": id, "via": via, "result": result, "events": len(receipts), "duplicates": duplicates}
            requests.info("received", extra=log_fields(**fields, ms=round((time.perf_counter() - began) * 1000, 1)))
        return [{"id": receipt.id, "duplicate": receipt.duplicate} for receipt in receipts]

    async def redrive(self, records: Sequence[Mapping[str, Any]], id: str) -> list[dict[str, str]]:
        """Append the events in messages of an SQS queue; return the failed ones, which SQS delivers again."""
        failed = []
        for record in records:
            try:
                await self.receive(_unwrap(record["body"]), id, "queue")
            except Unavailable as error:
                fields = log_fields(request_id=id)
                logger.warning("message %s stays in the queue: %s", record["messageId"], error.detail, extra=fields)
                failed.append({"itemIdentifier": record["messageId"]})
        return failed

    async def _receive(self, payload: Any) -> tuple[str, list[Receipt]]:
        try:
            events = self._events(payload)
            return ("appended", await self.hub.dispatch(events)) if events else ("ignored", [])
        except InvalidRequest as error:
            if self._dead_letters is None:
                raise
            kinds = {ContentTooLarge: "TooLarge", EventRefused: "Refused"}
            await asyncio.to_thread(self._dead_letters.put, payload, kinds.get(type(error), "Invalid"), str(error))
            return "dead-letter", []

    def _events(self, payload: Any) -> list[Event]:
        if not isinstance(payload, Mapping) or not isinstance(payload.get("source"), str):
            raise InvalidRequest("This is not an EventBridge event: it has no source")
        if payload["source"] == self._source:
            return [eventbridge_event.from_payload(payload)]
        return self._rules.events(payload)


class BusFunction:
    """The Lambda handler for one bus event or a batch of SQS messages; all invocations run on one event loop.

    An invocation raises Unavailable if Lambda should retry it.
    """

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._warm = Warm(_make, self._retire)

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Append the events of one invocation."""
        receiver, metrics = self._warm.current()
        id = request_id(getattr(context, "aws_request_id", None))
        try:
            if "Records" in event:
                failed = self._runner.run(receiver.redrive(event["Records"], id))
                if failed:
                    self._warm.request_refresh()
                return {"batchItemFailures": failed}
            return {"events": self._runner.run(receiver.receive(event, id))}
        except Unavailable:
            self._warm.request_refresh()
            raise
        finally:
            if metrics is not None:
                metrics.report()
            if receiver.hub.tracer is not None:
                receiver.hub.tracer.flush()

    def close(self) -> None:
        """Close all connections; the next invocation starts as in a new execution environment."""
        self._warm.close()
        self._runner.close()
        self._runner = asyncio.Runner()

    def _retire(self, made: "_Made") -> None:
        self._runner.run(made[0].hub.aclose())


_Made = tuple[Receiver, EmbeddedMetrics | None]


def _make(settings: Settings) -> _Made:
    configure_on_lambda(settings)
    if settings.transport in ("memory", "eventbridge"):
        raise SettingsError(
            "REALTIME_TRANSPORT",
            f"must name the log to append to, such as redis or postgres: {settings.transport} would lose the events",
        )
    queue = settings.dead_letter_queue
    if queue is None:
        logger.warning("REALTIME_DEAD_LETTER_QUEUE is not set: Lambda retries events that can never be appended")
    rules = BusRules.read(settings.config_file)
    dead_letters = None if queue is None else DeadLetters(queue)
    hub = make_hub(settings, stateless=True)
    metrics = EmbeddedMetrics.from_settings(hub, settings, os.environ)
    return Receiver(hub, settings.event_source, rules, dead_letters), metrics


def _unwrap(body: str) -> Any:
    """Return the bus event in the body of a dead letter."""
    try:
        payload = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body
    if isinstance(payload, dict) and "requestPayload" in payload:
        return payload["requestPayload"]  # Lambda's record of a failed asynchronous invocation
    return payload
