"""Steps of the tests of a fallback over HTTP."""

from tests.support.api import check
from tests.support.clients import event, metrics, publish, until_ready
from tests.support.processes import Instance
from tests.support.waiting import eventually


async def early(instance: Instance, name: str) -> None:
    """Publish an event that the log cannot store now."""
    answer = await publish(instance, event(name))
    assert answer.status == 202, answer
    assert answer.json() == {"events": [{"id": name, "cursor": None, "duplicate": False, "durable": False}]}
    check(answer.json(), "Receipts")


async def back(instance: Instance) -> None:
    """Return once the instance is ready and its outbox is empty."""
    await until_ready(instance)
    await eventually(lambda: is_empty(instance))


async def is_empty(instance: Instance) -> bool:
    return (await metrics(instance))["realtime_outbox_events"] == 0
